package api

import (
	"crypto/rand"
	"crypto/subtle"
)

// Carrier is what a session goes over.
type Carrier string

const (
	CarrierSerial Carrier = "serial" // the virtio-serial port of the greeting
	CarrierVsock  Carrier = "vsock"
)

// VsockTerms are what both ends of a vsock connection show each other, so that
// neither takes a stranger for the other: any process of the host can connect
// to a port of any guest, and a guest's address (CID) can be given to another
// one after its end. Only host and agent know them: they travel over the
// machine's own virtio-serial port. They are good for one connection.
type VsockTerms struct {
	Host  []byte `json:"host"`  // the host shows this first
	Agent []byte `json:"agent"` // the agent's answer
}

// secretSize is the length of a secret, in bytes.
const secretSize = 32

// NewVsockTerms makes terms that nobody can guess.
func NewVsockTerms() *VsockTerms {
	t := &VsockTerms{Host: make([]byte, secretSize), Agent: make([]byte, secretSize)}
	rand.Read(t.Host) // never fails (crypto/rand)
	rand.Read(t.Agent)
	return t
}

// VsockOffer is the agent's answer to a Welcome with Vsock.
type VsockOffer struct {
	// Port is where the agent listens, for the host (CID 2) only.
	Port uint32 `json:"port,omitempty"`
	// Error says why it cannot listen, "" if it does.
	Error string `json:"error,omitempty"`
}

// VsockSecret is the first line of a vsock connection, in each direction.
type VsockSecret struct {
	Secret []byte `json:"secret"`
}

// Proves reports whether what was shown is what was agreed on.
func (s VsockSecret) Proves(agreed []byte) bool {
	return len(agreed) == secretSize && subtle.ConstantTimeCompare(s.Secret, agreed) == 1
}

// CarrierChoice is the host's last word before the session, after an offer.
type CarrierChoice struct {
	Carrier Carrier `json:"carrier"`
}
