package resourcecache

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

func request(change func(*Request)) *Request {
	r := &Request{
		Spec:   json.RawMessage(`{"ociVersion":"1.0.2","process":{"args":["a"],"x":1.0}}`),
		Bundle: "/b", Network: FileID{7, 8},
		Settings: json.RawMessage(`{"systemd":false}`), Versions: map[string]string{"runtime": "1", "guest": "2"},
	}
	change(r)
	return r
}

func TestKey(t *testing.T) {
	base, err := request(func(*Request) {}).Key()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Request)
		same   bool
	}{
		"nothing": {func(*Request) {}, true},
		"order and space": {func(r *Request) {
			r.Spec = json.RawMessage(`{"process": {"x":1.0, "args":["a"]}, "ociVersion":"1.0.2"}`)
		}, true},
		"an argument": {func(r *Request) { r.Spec = json.RawMessage(`{"ociVersion":"1.0.2","process":{"args":["b"],"x":1.0}}`) }, false},
		"an unknown field": {func(r *Request) {
			r.Spec = json.RawMessage(`{"ociVersion":"1.0.2","process":{"args":["a"],"x":1.0},"new":0}`)
		}, false},
		"a number's form":   {func(r *Request) { r.Spec = json.RawMessage(`{"ociVersion":"1.0.2","process":{"args":["a"],"x":1}}`) }, false},
		"the bundle":        {func(r *Request) { r.Bundle = "/c" }, false},
		"the network":       {func(r *Request) { r.Network.Ino++ }, false},
		"the settings":      {func(r *Request) { r.Settings = json.RawMessage(`{"systemd":true}`) }, false},
		"the guest's image": {func(r *Request) { r.Versions["guest"] = "3" }, false},
	} {
		k, err := request(tt.change).Key()
		if err != nil || (k == base) != tt.same {
			t.Errorf("%s: %s, %v; the same expected: %t", name, k, err, tt.same)
		}
	}
	if _, err := request(func(r *Request) { r.Spec = json.RawMessage(`{`) }).Key(); err == nil {
		t.Error("half a config.json has a key")
	}
}

func TestNext(t *testing.T) {
	events := []Event{CallerGone, Acknowledge, Adopt, GiveUp, Expire, Fail}
	const no = State("")
	for from, want := range map[State][]State{ // in the order of events
		Creating:  {Unclaimed, Claimed, no, Abandoned, no, Abandoned},
		Unclaimed: {no, no, Creating, Abandoned, Abandoned, Abandoned},
		Claimed:   {no, no, no, no, no, no},
		Abandoned: {Abandoned, no, no, Abandoned, Abandoned, Abandoned},
	} {
		for i, e := range events {
			got, err := from.Next(e)
			if want[i] == no {
				if !errors.Is(err, ErrEvent) || got != from {
					t.Errorf("%s, %s: %s, %v, expected ErrEvent", from, e, got, err)
				}
				continue
			}
			if err != nil || got != want[i] {
				t.Errorf("%s, %s: %s, %v, expected %s", from, e, got, err, want[i])
			}
		}
	}
	for s, want := range map[State]bool{Creating: true, Unclaimed: false, Claimed: true, Abandoned: false} {
		if s.Visible() != want {
			t.Errorf("%s: visible %t", s, !want)
		}
	}
}

func TestExpired(t *testing.T) {
	const until = 10 * time.Minute
	for name, tt := range map[string]struct {
		now  Clock
		want bool
	}{
		"before":       {Clock{"b", until - 1}, false},
		"at":           {Clock{"b", until}, true},
		"after":        {Clock{"b", until + time.Hour}, true},
		"another boot": {Clock{"c", time.Second}, true},
	} {
		if got := Expired("b", until, tt.now); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
