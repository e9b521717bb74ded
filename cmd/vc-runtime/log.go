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
	} else if format == "text" && p.inJournal() {
		p.log.SetFormatter(&journalFormatter{text: logrus.TextFormatter{DisableColors: true, DisableTimestamp: true}})
	}
	if debug {
		p.log.SetLevel(logrus.DebugLevel)
	}
	return nil
}

// inJournal reports whether stderr is a stream of the journal's, as in a unit of
// systemd. What cannot be found out is not.
func (p *program) inJournal() bool {
	if p.journal == nil {
		return false
	}
	is, err := p.journal()
	return err == nil && is
}

// journalFormatter writes lines for the journal, which has their time, and takes
// their priority from what they begin with (sd-daemon(3)).
type journalFormatter struct{ text logrus.TextFormatter }

// priorities are those of syslog(3).
var priorities = map[logrus.Level]int{
	logrus.PanicLevel: 3, logrus.FatalLevel: 3, logrus.ErrorLevel: 3,
	logrus.WarnLevel: 4, logrus.InfoLevel: 6, logrus.DebugLevel: 7, logrus.TraceLevel: 7,
}

func (f *journalFormatter) Format(e *logrus.Entry) ([]byte, error) {
	line, err := f.text.Format(e)
	return append(fmt.Appendf(nil, "<%d>", priorities[e.Level]), line...), err
}

func (p *program) closeLog() {
	if p.logFile != nil {
		p.logFile.Close()
	}
}
