package sandbox

import (
	"context"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// late is an agent that takes its time for the first answer.
type late struct {
	Guest
	told []int64
}

func (l *late) Refresh(_ context.Context, req *api.RefreshRequest) (*api.Empty, error) {
	if l.told = append(l.told, req.TimeNs); len(l.told) == 1 {
		time.Sleep(staleAfter)
	}
	return &api.Empty{}, nil
}

// A guest that was told the time late is told again: its clock would be late for
// good.
func TestRefreshLate(t *testing.T) {
	g := &late{}
	if err := (&Machine{Guest: g}).refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(g.told) < 2 || g.told[1]-g.told[0] < int64(staleAfter) {
		t.Errorf("the guest was told %d", g.told)
	}
}

// A guest whose first container takes long is told the time again, once.
func TestCatchUp(t *testing.T) {
	for _, tt := range []struct {
		name     string
		welcomed time.Time
		told     int
	}{
		{"late", time.Now().Add(-longCreate), 1},
		{"in time", time.Now(), 0},
		{"told since", time.Time{}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &late{told: []int64{0}} // it answers at once
			m := &Machine{Guest: g, welcomed: tt.welcomed}
			for range 2 {
				if err := m.catchUp(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(g.told) - 1; n != tt.told {
				t.Errorf("told %d times, expected %d", n, tt.told)
			}
		})
	}
}
