package main

import (
	"fmt"
	"io"
	"slices"
)

// What is wanted of vc-runtime, for each image. Debian's containerd syncs nothing
// while it unpacks; vc-runtime does.
const (
	wallGoal   = 1.0 // of containerd's time
	cpuGoal    = 0.6 // of containerd's
	removeGoal = 1.0 // seconds
	memoryGoal = 200 // MB
)

// goal is one of them, and what has become of it.
type goal struct {
	what        string
	got, atMost float64
	unit        string
}

func (g goal) met() bool { return g.got <= g.atMost }

// goalsOf compares the rounds of one image. Times are compared round by round, as those of
// a round were taken one after the other; without containerd's they are left out.
func goalsOf(ours, theirs []result) []goal {
	if len(ours) == 0 {
		return nil
	}
	var goals []goal
	if len(theirs) == len(ours) {
		ratio := func(of func(result) float64) float64 {
			var all []float64
			for i := range ours {
				all = append(all, of(ours[i])/of(theirs[i]))
			}
			return median(all)
		}
		goals = append(goals,
			goal{"wall", ratio(func(r result) float64 { return r.wall }), wallGoal, "of containerd's"},
			goal{"CPU", ratio(func(r result) float64 { return r.cpu }), cpuGoal, "of containerd's"})
	}
	return append(goals,
		goal{"removal", median(each(ours, func(r result) float64 { return r.remove })), removeGoal, "s"},
		goal{"peak memory", median(each(ours, func(r result) float64 { return r.memory })), memoryGoal, "MB"})
}

// printGoals prints a table of the goals, and reports how many were not met.
func printGoals(w io.Writer, image string, goals []goal) (missed int) {
	for _, g := range goals {
		verdict := "pass"
		if !g.met() {
			verdict = "FAIL"
			missed++
		}
		fmt.Fprintf(w, "| %s | %s | %.2f | %.2f %s | %s |\n", image, g.what, g.got, g.atMost, g.unit, verdict)
	}
	return missed
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
