package api

import (
	"errors"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ToStatus makes of err what a ttrpc server should answer: its text, and the
// errno that errors.As finds in it. A nil error stays nil.
//
// The agent uses ESRCH for "no such container or process, or it has ended",
// EEXIST for a name in use, and passes on what the kernel or the guest's OCI
// runtime said otherwise (ENOENT and EACCES for an executable).
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	st := status.New(codes.Unknown, err.Error())
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if with, derr := st.WithDetails(&Failure{Errno: uint32(errno)}); derr == nil {
			st = with
		}
	}
	return st.Err()
}

// GuestError is a failure that the agent reported. Its text is the guest's
// and is not trusted: it is shown, never matched.
type GuestError struct {
	Text  string
	Errno syscall.Errno // 0 where the guest named none
}

func (e *GuestError) Error() string { return e.Text }

// Unwrap lets errors.Is compare with an errno.
func (e *GuestError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// FromStatus undoes ToStatus on the host. Errors that are no answer of the
// agent (deadline, closed connection) are returned as they are.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Unknown {
		return err
	}
	ge := &GuestError{Text: st.Message()}
	for _, d := range st.Details() {
		if f, ok := d.(*Failure); ok {
			ge.Errno = syscall.Errno(f.Errno)
		}
	}
	return ge
}
