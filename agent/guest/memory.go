package guest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

// balloonModules is the module group that gives free memory back to the host,
// by itself once it is loaded (Linux: mm/page_reporting.c).
const balloonModules = "balloon"

// reportOrder is the smallest free block that is given back: 2^5 pages, 128
// KiB. The kernel reports nothing while less than 32 such blocks are free; with
// its own choice, 2 MiB, that would be never in a small machine.
const (
	reportOrder     = 5
	reportOrderFile = "/sys/module/page_reporting/parameters/page_reporting_order"
)

// giveBack makes the kernel tell the host which memory it does not use.
func (m *Modules) giveBack() error {
	if err := m.Load(balloonModules); err != nil {
		return err
	}
	// After the driver has come, which sets it. A kernel that cannot report
	// has no such file.
	err := os.WriteFile(reportOrderFile, []byte(strconv.Itoa(reportOrder)), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("give free memory back: %w", err)
	}
	return nil
}
