// Package layers holds the tests of packages erofs and layer that need root:
// their images against the kernel's mount, fsck.erofs and umoci.
package layers
