package layertest

import (
	"archive/tar"
	"bytes"
	"fmt"
)

// scriptNames are names in each other's way.
var scriptNames = []string{"a", "b", "a/b", "a/c", "b/a", "a/b/c", ".", "c", "a/../b", "/a", ".wh.a", "a/.wh.b", ".wh..wh..opq", "a/.wh..wh..opq",
	"b/.wh..wh..opq", "a/b/.wh.c", ".wh.b", "s", "s/x", "a/s/x", "a/s", "b/c/d/e", ".wh.s"}

// Script makes layers of any bytes, the lowest first: three bytes for each
// entry, and 0xff between at most five layers. Not all of them are valid.
func Script(script []byte) (layers [][]Item) {
	for _, part := range bytes.SplitN(script, []byte{0xff}, 5) {
		layers = append(layers, scriptItems(part))
	}
	return layers
}

func scriptItems(script []byte) (items []Item) {
	for ; len(script) >= 3; script = script[3:] {
		name, other := scriptNames[int(script[1])%len(scriptNames)], scriptNames[int(script[2])%len(scriptNames)]
		mode := Mode(int64(script[2]) | 0o4000)
		switch script[0] % 6 {
		case 0:
			items = append(items, Dir(name, mode))
		case 1:
			items = append(items, File(name, fmt.Sprint(len(items)), mode))
		case 2:
			items = append(items, Symlink(name, other))
		case 3:
			items = append(items, Link(name, other))
		case 4:
			items = append(items, Node(name, tar.TypeChar, int64(script[2]%3), 0))
		case 5:
			items = append(items, File(name, string(make([]byte, int(script[2])*700)), Xattr("user.x", name)))
		}
	}
	return items
}
