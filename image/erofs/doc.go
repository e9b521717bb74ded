// Package erofs writes, reads and checks file system images in the on-disk
// format of Linux's EROFS: those that a layer of a container image becomes.
//
// Images are uncompressed, with blocks of 4 KiB, and use nothing that Linux
// 5.15 lacks. A Writer makes one in a single pass over its input: data and the
// inodes of files go to the image as they come, folders follow at the end,
// since they are only complete then, and the superblock is the very last, so
// that an image that was not finished is none.
//
// The format is that of include/linux and fs/erofs/erofs_fs.h of the kernel
// (Documentation/filesystems/erofs.rst describes it). The package runs in the
// command; it trusts neither what it writes nor what it reads.
package erofs
