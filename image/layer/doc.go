// Package layer turns the layers of a container image, which are compressed
// tar streams, into erofs images (package erofs), and erofs images into a
// folder.
//
// What a layer says is carried out on a tree in memory: no name, link or
// device of a layer ever reaches the host's file system while it is unpacked.
// How names, whiteouts and duplicates are to be read is said by the OCI image
// specification (layer.md); where it is silent, by containerd.
//
// The package runs in the command. Layers are hostile.
package layer
