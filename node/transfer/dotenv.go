package transfer

import (
	"errors"
	"strings"
)

// dotenvName is the file in a node's directory from which the library fills in
// variables that the environment does not set.
const dotenvName = ".env"

// errDotenv: the value is written in a way only the library's own parser reads.
var errDotenv = errors.New("its value refers to other variables or runs over several lines: give the password itself")

// dotenv looks a variable up in a .env file: lines of NAME=VALUE, with export
// before it or not, the value bare, in single or in double quotes. A name in
// other letter case will do where there is none in this one, as from koi-net 1.3
// on; the last value given counts.
func dotenv(text, name string) (value string, found bool, err error) {
	var exact bool
	for line := range strings.Lines(text) {
		key, raw, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		key = strings.Trim(strings.TrimSpace(strings.TrimPrefix(key, "export ")), "'")
		if key != name && (exact || !strings.EqualFold(key, name)) {
			continue
		}
		exact = exact || key == name
		value, err = dotenvValue(strings.TrimSpace(raw))
		found = true
	}
	return value, found, err
}

func dotenvValue(raw string) (string, error) {
	if strings.Contains(raw, "${") {
		return "", errDotenv
	}
	if raw == "" || raw[0] != '\'' && raw[0] != '"' {
		for i := 1; i < len(raw); i++ {
			if raw[i] == '#' && (raw[i-1] == ' ' || raw[i-1] == '\t') {
				raw = raw[:i]
				break
			}
		}
		return strings.TrimSpace(raw), nil
	}
	var b strings.Builder
	for i := 1; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == raw[0]:
			return b.String(), nil
		case c == '\\' && i+1 < len(raw):
			i++
			b.WriteString(escaped(raw[0], raw[i]))
		default:
			b.WriteByte(c)
		}
	}
	return "", errDotenv
}

// escaped is what a backslash and c stand for between the given quotes.
func escaped(quote, c byte) string {
	if c == '\\' || c == '\'' {
		return string(c)
	}
	if quote == '"' {
		if i := strings.IndexByte(`abfnrtv"`, c); i >= 0 {
			return "\a\b\f\n\r\t\v\""[i : i+1]
		}
	}
	return `\` + string(c)
}
