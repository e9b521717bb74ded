// Package iperf sends streams and datagrams between containers, and between
// containers and the host, with Debian's iperf3: nothing may be lost. The pods are on
// a bridge in network namespaces that the test makes; the host is the suite's own.
//
//	VC_IPERF  seconds for each stream; sends several times in turns, with runc
//	          beside it, and prints a table (`hack/bench-network`). One second, once,
//	          and no table, if unset.
package iperf

import (
	"os"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, nil)) }
