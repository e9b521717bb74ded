package spans

import (
	"context"
	"fmt"
	"testing"
)

func TestAfter(t *testing.T) {
	l := new(Log)
	ctx := With(context.Background(), l)
	Begin(ctx, "a").End()
	Spawn(With(ctx, l), "b").Since(1).End()
	got, last := l.After(0)
	if last != 2 || len(got) != 2 || got[0].Name != "a" || got[0].Spawn || got[1].Name != "b" || !got[1].Spawn || got[1].Begin != 1 {
		t.Errorf("%v, last %d", got, last)
	}
	if got[0].Lane == got[1].Lane || got[0].Begin > got[0].End {
		t.Errorf("%v", got)
	}
	if got, last := l.After(last); len(got) != 0 || last != 2 {
		t.Errorf("%v, last %d", got, last)
	}
	if got, last := l.After(99); len(got) != 0 || last != 2 {
		t.Errorf("%v, last %d", got, last)
	}
}

// The ring keeps the latest ones.
func TestFull(t *testing.T) {
	l := new(Log)
	ctx := With(context.Background(), l)
	for i := range size + 10 {
		Begin(ctx, fmt.Sprint(i)).End()
	}
	got, last := l.After(3)
	if len(got) != size || got[0].Name != "10" || got[size-1].Name != fmt.Sprint(size+9) || last != size+10 {
		t.Errorf("%d spans from %s to %s, last %d", len(got), got[0].Name, got[len(got)-1].Name, last)
	}
}

func TestOff(t *testing.T) {
	ctx := With(context.Background(), nil)
	if n := testing.AllocsPerRun(100, func() { Begin(ctx, "a").End() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
