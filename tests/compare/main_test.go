// Package compare runs the same bundles under runc and vc-runtime and compares
// what comes of them: output, exit code, and the files left in the rootfs and
// the volumes, byte by byte. What may differ is listed, with its reason, in
// docs/differences.md, which the test reads; a difference that is listed there
// and does not occur is an error too.
//
// VC_COMPARE=all runs all cases (`make compare`), otherwise it is a
// representative part. To see single cases: -run 'Compare/NAME'.
package compare

import (
	"flag"
	"os"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testenv.Main(m, &suite, nil))
}

// all says whether every case is to run.
func all() bool {
	return os.Getenv("VC_COMPARE") == "all" || flag.Lookup("test.run").Value.String() != ""
}
