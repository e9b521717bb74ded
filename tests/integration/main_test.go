// Package integration tests the runtime's verbs, one a file, with real
// virtual machines.
package integration

import (
	"os"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, nil)) }

// exitLimit is how long a container whose process ends by itself may take.
const exitLimit = 60 * time.Second
