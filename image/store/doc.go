// Package store keeps images on disk: the content that registries serve
// (blobs), the layers made of it, the images, and who needs what. The commands
// use it, any number of them at once, without a daemon; any of them may be
// killed, and the machine may lose power, at any instruction.
//
// Terms:
//
//   - A blob is content by its digest, as it was served. A layer is the file
//     system image of one layer, by its chain id.
//   - A lease says what a running process needs. It is a file with an flock: it
//     lives as long as its holder does, and no longer.
//   - A pin says what a container needs. It is a file that stays until it is
//     removed.
//   - Garbage is what neither an image, nor a pin, nor a lease names.
//
// The rule that makes this safe: what is needed is first written into the lease
// and then looked for, both under the shared lock of the store; garbage is
// marked and moved away under the exclusive one. docs/images.md has the
// argument, and the format of the files.
package store

import "errors"

var (
	// ErrNotExist is given for an image that the store does not have.
	ErrNotExist = errors.New("image does not exist")
	// ErrAmbiguous is given for an abbreviated id that fits several images.
	ErrAmbiguous = errors.New("more than one image fits")
	// ErrCorrupt is given for a file of the store that cannot be understood;
	// the error names it. Fsck finds them all.
	ErrCorrupt = errors.New("damaged file of the image store")
	// ErrFutureFormat is given for a store of a later version.
	ErrFutureFormat = errors.New("image store of a later version of vc-runtime")
	// ErrDigest is given where content is not what its digest says.
	ErrDigest = errors.New("content does not have the expected digest")
	// ErrNotPinned is given for content that is to be added although the lease
	// does not name it: the collector could take it away at any time.
	ErrNotPinned = errors.New("not named by the lease")
	// ErrInUse is given for the removal of an image that a container uses.
	ErrInUse = errors.New("image is in use")
)
