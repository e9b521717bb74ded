package cgroup

import (
	"os"
	"testing"
)

// It moves nobody.
func TestHasten(t *testing.T) {
	var was string
	for range 2 {
		b, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		if is := string(b); was != "" && is != was {
			t.Errorf("this process was in\n%sand is in\n%s", was, is)
		}
		was = string(b)
		Hasten()
	}
}
