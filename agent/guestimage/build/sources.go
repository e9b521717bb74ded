package build

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptSource is one of Debian's archives as the host has it configured.
type aptSource struct {
	uris, suites, components []string
	signedBy                 string // "" for apt's own keyrings
}

// debianSources finds Debian's own archives among those in an /etc/apt, so
// that the builder uses the same mirrors. Others are left out: what goes into
// the guest is Debian's.
func debianSources(etcApt, codename string) ([]aptSource, error) {
	files, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	var found []aptSource
	for _, name := range append([]string{filepath.Join(etcApt, "sources.list")}, files...) {
		var parse func([]byte) []aptSource
		switch filepath.Ext(name) {
		case ".list":
			parse = parseOneLine
		case ".sources":
			parse = parseStanzas
		default:
			continue // as apt does
		}
		raw, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, s := range parse(raw) {
			if s.isDebian(codename) {
				found = append(found, s)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no source for Debian %q", etcApt, codename)
	}
	return found, nil
}

// isDebian tells Debian's archives by their suites and by "main".
func (s aptSource) isDebian(codename string) bool {
	suites := []string{codename, codename + "-updates", codename + "-security"}
	for _, suite := range s.suites {
		if !slices.Contains(suites, suite) {
			return false
		}
	}
	return slices.Contains(s.components, "main")
}

// stanza is the source in the deb822 form, with the source packages, and
// without the components whose licence is another.
func (s aptSource) stanza() string {
	text := "Types: deb deb-src\nURIs: " + strings.Join(s.uris, " ") +
		"\nSuites: " + strings.Join(s.suites, " ") + "\nComponents: main\n"
	if s.signedBy != "" {
		text += "Signed-By: " + s.signedBy + "\n"
	}
	return text
}

// parseOneLine reads the form "deb [options] uri suite component...", see
// sources.list(5).
func parseOneLine(raw []byte) []aptSource {
	var found []aptSource
	for line := range strings.Lines(string(raw)) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var s aptSource
		if options, after, ok := strings.Cut(strings.TrimSpace(rest), "]"); ok && options[0] == '[' {
			for _, o := range strings.Fields(options[1:]) {
				if key, ok := strings.CutPrefix(o, "signed-by="); ok {
					s.signedBy = key
				}
			}
			rest = after
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			s.uris, s.suites, s.components = f[:1], f[1:2], f[2:]
			found = append(found, s)
		}
	}
	return found
}

// parseStanzas reads the deb822 form, see sources.list(5).
func parseStanzas(raw []byte) []aptSource {
	var found []aptSource
	var key string
	fields := map[string]string{}
	end := func() {
		if slices.Contains(strings.Fields(fields["types"]), "deb") && fields["enabled"] != "no" {
			found = append(found, aptSource{
				uris:       strings.Fields(fields["uris"]),
				suites:     strings.Fields(fields["suites"]),
				components: strings.Fields(fields["components"]),
				signedBy:   fields["signed-by"],
			})
		}
		fields = map[string]string{}
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \t")
		switch {
		case line == "":
			end()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t': // goes on with the last field
			fields[key] += "\n" + line
		default:
			name, value, _ := strings.Cut(line, ":")
			key = strings.ToLower(name)
			fields[key] = strings.TrimSpace(value)
		}
	}
	end()
	return found
}
