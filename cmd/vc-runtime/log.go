package main

import (
	"fmt"
	"os"

	"github.com/sirupsen/logrus"
)

// newLogger logs to stderr, which belongs to the user: failures only.
func newLogger(stderr *os.File) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(stderr)
	log.SetLevel(logrus.ErrorLevel)
	return log
}

// openLog applies the log flags. Without debug nothing but the failure is ever
// logged to stderr, or as JSON: podman takes a JSON log for a single object.
func (p *program) openLog(path, format string, debug bool) error {
	switch format {
	case "text":
	case "json":
		p.log.SetFormatter(new(logrus.JSONFormatter))
	default:
		return fmt.Errorf("invalid log-format: %s", format)
	}
	if path != "" && path != "/dev/stderr" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
		if err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
		p.logFile = f
		p.log.SetOutput(f)
		if format == "text" {
			p.log.SetLevel(logrus.InfoLevel)
		}
	}
	if debug {
		p.log.SetLevel(logrus.DebugLevel)
	}
	return nil
}

func (p *program) closeLog() {
	if p.logFile != nil {
		p.logFile.Close()
	}
}
