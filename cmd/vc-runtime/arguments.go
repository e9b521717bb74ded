package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// unlimited is no upper bound for the number of arguments.
const unlimited = -1

// arguments checks how many positional arguments a command gets. The texts are
// runc's; the command's help goes to stdout before them.
func arguments(low, high int) cli.BeforeFunc {
	return func(c *cli.Context) error {
		var want string
		switch n := c.NArg(); {
		case low == high && n != low:
			want = fmt.Sprintf("exactly %d", low)
		case n < low:
			want = fmt.Sprintf("a minimum of %d", low)
		case high != unlimited && n > high:
			want = fmt.Sprintf("a maximum of %d", high)
		default:
			return nil
		}
		fmt.Fprint(c.App.Writer, "Incorrect Usage.\n\n")
		if err := cli.ShowCommandHelp(c.Lineage()[1], c.Command.Name); err != nil {
			return err
		}
		return fmt.Errorf("%s: %q requires %s argument(s)", name, c.Command.Name, want)
	}
}

// flagsInPlace are the commands whose arguments after the first may look like
// flags and are none of ours: a command line, a signal, the options of ps.
var flagsInPlace = []string{"exec", "kill", "ps"}

// flagsFirst moves a command's flags before its positional arguments, as runc
// takes them in any order: `delete ID --force`. The library stops at the first
// positional. What is unknown stays where it is, for the library to refuse.
func flagsFirst(app *cli.App, args []string) []string {
	at := commandIndex(app, args)
	if at < 0 {
		return args
	}
	command := app.Command(args[at])
	if command == nil || slices.Contains(flagsInPlace, command.Name) {
		return args
	}
	if sub := subcommand(command, args[at+1:]); sub != nil {
		command, at = sub, at+1
	}
	if command.Name == "run" && runsImage(command.Flags, args[at+1:]) {
		return args
	}
	flags := slices.Clip(slices.Clone(args[:at+1]))
	var rest []string
	for i := at + 1; i < len(args); i++ {
		if args[i] == "--" {
			rest = append(append([]string{"--"}, rest...), args[i+1:]...)
			break
		}
		n := flagLength(command.Flags, args[i:])
		if n == 0 {
			rest = append(rest, args[i])
			continue
		}
		flags = append(flags, args[i:i+n]...)
		i += n - 1
	}
	return append(flags, rest...)
}

// subcommand is the one that args begin with, or nil.
func subcommand(command *cli.Command, args []string) *cli.Command {
	for _, sub := range command.Subcommands {
		if len(args) > 0 && sub.HasName(args[0]) {
			return sub
		}
	}
	return nil
}

// runsImage tells whether the arguments of run are an image and a command line,
// whose flags are none of ours. A container's bundle is named by a flag, before
// or after its id, or lies here.
func runsImage(flags []cli.Flag, args []string) bool {
	if bundleHere() {
		return false
	}
	for i, positional := 0, 0; i < len(args) && positional < 2; {
		n := flagLength(flags, args[i:])
		if n == 0 {
			n = 1
			positional++
		} else if word, _, _ := strings.Cut(strings.TrimLeft(args[i], "-"), "="); word == "bundle" || word == "b" {
			return false
		}
		i += n
	}
	return true
}

// bundleHere reports whether the current directory is a bundle.
func bundleHere() bool {
	_, err := os.Stat("config.json")
	return err == nil
}

// commandIndex is where the command is in args, or -1.
func commandIndex(app *cli.App, args []string) int {
	for i := 1; i < len(args); {
		if !strings.HasPrefix(args[i], "-") {
			return i
		}
		n := flagLength(app.Flags, args[i:])
		if n == 0 {
			break
		}
		i += n
	}
	return -1
}

// flagLength is how many of args the flag at their beginning takes: 1, 2 with
// a value of its own, or 0 where it is none of known.
func flagLength(known []cli.Flag, args []string) int {
	if len(args[0]) < 2 || args[0][0] != '-' {
		return 0
	}
	word, _, valued := strings.Cut(strings.TrimPrefix(args[0][1:], "-"), "=")
	for _, f := range append(known, cli.HelpFlag) {
		if !slices.Contains(f.Names(), word) {
			continue
		}
		doc, ok := f.(cli.DocGenerationFlag)
		switch {
		case !ok || !doc.TakesValue() || valued:
			return 1
		case len(args) > 1:
			return 2
		}
	}
	return 0
}
