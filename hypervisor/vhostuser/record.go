package vhostuser

import (
	"bytes"
	"fmt"
)

// maxRings is how many rings a device may have; that of a share has two.
const maxRings = 8

// ringOrder is the order in which a back end is told about a ring. Where to call
// comes before the kick, with which it begins to work.
var ringOrder = [...]request{setVringNum, setVringBase, setVringAddr, setVringErr, setVringCall, setVringKick, setVringEnable}

// record is what a front end has said, as far as it still holds. It has at most
// three files for each ring, and one for each region of the memory.
type record struct {
	owner    *message
	features *message
	protocol *message
	table    *message   // the memory, in one piece
	regions  []*message // or as it came
	rings    [maxRings][len(ringOrder)]*message
}

// close closes all files.
func (r *record) close() {
	r.table.close()
	for _, m := range r.regions {
		m.close()
	}
	for _, ring := range r.rings {
		for _, m := range ring {
			m.close()
		}
	}
	*r = record{}
}

// replace keeps m in the place of another one.
func replace(place **message, m *message) {
	(*place).close()
	*place = m
}

// running reports whether the first so many rings are in use: then the guest's
// driver has taken the device.
func (r *record) running(rings int) bool {
	for i := range rings {
		kick, enable := r.ring(i, setVringKick), r.ring(i, setVringEnable)
		if kick == nil {
			return false
		}
		// Without the protocol's features a ring needs no leave.
		gated := r.features != nil && r.features.number()&protocolFeatures != 0
		if gated && (enable == nil || !enabled(enable)) {
			return false
		}
	}
	return true
}

// enabled reports what a SET_VRING_ENABLE says.
func enabled(m *message) bool { return m.number()>>32 != 0 }

// ring gives what was said about a ring by a request; nil for nothing.
func (r *record) ring(i int, by request) *message {
	for n, q := range ringOrder {
		if q == by {
			return r.rings[i][n]
		}
	}
	return nil
}

// take records a request that was checked, and gives the answer; nil where none is
// awaited. The message is the record's, also with an error.
func (r *record) take(m *message, o Offer) (answer *message, err error) {
	needs := m.flags&flagNeedReply != 0 && !shapes[m.request].answered
	// What is kept is said again by somebody who asks for an answer himself.
	m.flags &^= flagNeedReply
	if answer, err = r.keep(m, o); err != nil {
		m.close()
		return nil, err
	}
	if needs {
		answer = numbered(m.request, 0)
	}
	if answer != nil {
		answer.flags |= flagReply
	}
	return answer, nil
}

func (r *record) keep(m *message, o Offer) (answer *message, err error) {
	if shapes[m.request].ring {
		return r.keepRing(m)
	}
	switch m.request {
	case getFeatures:
		return numbered(m.request, o.features), nil
	case getProtocolFeatures:
		return numbered(m.request, o.protocol), nil
	case getQueueNum:
		return numbered(m.request, o.queues), nil
	case getMaxMemSlots:
		return numbered(m.request, o.slots), nil
	case setOwner:
		r.owner = m
	case setFeatures:
		r.features = m
	case setProtocolFeatures:
		r.protocol = m
	case setMemTable:
		replace(&r.table, m)
	case addMemReg:
		if uint64(len(r.regions)) >= o.slots {
			return nil, fmt.Errorf("%w: ADD_MEM_REG after %d others, expected at most %d in all", errMessage, len(r.regions), o.slots)
		}
		r.regions = append(r.regions, m)
	case remMemReg:
		return nil, r.forget(m)
	default:
		return nil, fmt.Errorf("%w: nobody has an answer to %s", errMessage, m.request)
	}
	return nil, nil
}

// keepRing records what is said about a ring.
func (r *record) keepRing(m *message) (answer *message, err error) {
	ring := &r.rings[m.ring()]
	if m.request == getVringBase { // which stops the ring; nobody has used any of it
		base := uint64(m.ring())
		for i, q := range ringOrder {
			switch said := ring[i]; {
			case q == setVringKick:
				replace(&ring[i], nil)
			case q == setVringBase && said != nil:
				base = said.number()
			}
		}
		return numbered(m.request, base), nil
	}
	for i, q := range ringOrder {
		if q == m.request {
			replace(&ring[i], m)
		}
	}
	return nil, nil
}

// forget takes a region away.
func (r *record) forget(m *message) error {
	defer m.close()     // some say which file it is
	const place = 3 * 8 // guest address, size, QEMU's address
	for i, known := range r.regions {
		if bytes.Equal(known.payload[tableHead:tableHead+place], m.payload[tableHead:tableHead+place]) {
			known.close()
			r.regions = append(r.regions[:i], r.regions[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("%w: REM_MEM_REG of a region that is none of the %d", errMessage, len(r.regions))
}

// messages are what a back end that comes later has to be told, in this order,
// after the protocol's features and the owner.
func (r *record) messages() []*message {
	var all []*message
	said := func(ms ...*message) {
		for _, m := range ms {
			if m != nil {
				all = append(all, m)
			}
		}
	}
	said(r.features, r.table)
	said(r.regions...)
	for _, ring := range r.rings {
		said(ring[:]...)
	}
	return all
}
