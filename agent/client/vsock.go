package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// Vsock is how the session comes to go over vsock.
type Vsock struct {
	// Dial connects to a port of the guest.
	Dial func(ctx context.Context, port uint32) (net.Conn, error)
	// Required makes it Dial's error if that does not work. Otherwise the
	// session then stays on the connection of the greeting.
	Required bool
	// Limit is how long to try, before the session is done without; 0 is as long
	// as ctx goes.
	Limit time.Duration
}

// chooseCarrier tries vsock and tells the agent what the session goes over.
func (c *Client) chooseCarrier(ctx context.Context, v *Vsock, terms *api.VsockTerms) (net.Conn, error) {
	var offer api.VsockOffer
	if err := api.ReadLine(c.port, &offer); err != nil {
		return nil, fmt.Errorf("read the offer of a vsock port: %w", err)
	}
	conn, err := v.connect(ctx, offer, terms)
	choice := api.CarrierChoice{Carrier: api.CarrierVsock}
	if err != nil {
		err = fmt.Errorf("vsock: %w", err)
		if v.Required || ctx.Err() != nil {
			return nil, err
		}
		c.noVsock = err
		choice.Carrier, conn = api.CarrierSerial, c.port
	}
	if err := api.WriteLine(c.port, choice); err != nil {
		return conn, fmt.Errorf("write the choice of %s: %w", choice.Carrier, err)
	}
	return conn, nil
}

// connect gives a connection whose other end is the agent.
func (v *Vsock) connect(ctx context.Context, offer api.VsockOffer, terms *api.VsockTerms) (net.Conn, error) {
	if offer.Error != "" {
		return nil, fmt.Errorf("the agent does not listen: %.300q", offer.Error)
	}
	if v.Limit != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, v.Limit)
		defer cancel()
	}
	conn, err := v.Dial(ctx, offer.Port)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = exchange(conn, terms)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// errStranger is that whoever answers a connection is not the agent that was
// greeted.
var errStranger = errors.New("who answers is not the agent")

func exchange(conn net.Conn, terms *api.VsockTerms) error {
	if err := api.WriteLine(conn, api.VsockSecret{Secret: terms.Host}); err != nil {
		return fmt.Errorf("show the host's secret: %w", err)
	}
	var shown api.VsockSecret
	if err := api.ReadLine(conn, &shown); err != nil {
		return fmt.Errorf("read the agent's secret: %w", err)
	}
	if !shown.Proves(terms.Agent) {
		return errStranger
	}
	return nil
}
