// Package iperf sends streams and datagrams between containers, and between
// containers and the host, with Debian's iperf3: nothing may be lost. The pods are on
// a bridge in network namespaces that the test makes; the host is the suite's own.
//
//	VC_IPERF  seconds for each stream; prints a table with runc on the same bridge
//	          beside it (`hack/bench-network`). One second, and no table, if unset.
package iperf

import (
	"os"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, nil)) }
