// Command stream is a peer of the network's tests, for in the guest: busybox's
// nc writes so little at once that it measures itself.
//
//	stream send ADDRESS BYTES
//	stream receive ADDRESS
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stream:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("arguments %q", args)
	}
	conn, err := net.Dial("tcp", args[1])
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 256<<10)
	if args[0] == "receive" {
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, buf)
		fmt.Println(n)
		return err
	}
	left, err := strconv.Atoi(args[2])
	for err == nil && left > 0 {
		var n int
		n, err = conn.Write(buf[:min(left, len(buf))])
		left -= n
	}
	return err
}
