package docs

import "strings"

// Tutorial is the document whose blocks hack/e2e runs from top to bottom.
const Tutorial = "docs/tutorial.md"

// Block is a fenced block of a document.
type Block struct {
	// Line is the number of its first line, the fence.
	Line int
	// Language is what the fence says: sh for commands, console for commands, each after
	// "$ ", and what they print.
	Language string
	// Text is what stands between the fences.
	Text string
}

const fence = "```"

// Blocks returns the fenced blocks of a document in their order. One that does not end
// goes to the end of the document.
func Blocks(text string) []Block {
	var out []Block
	open := false
	n := 0
	for line := range strings.Lines(text) {
		n++
		language, fenced := strings.CutPrefix(line, fence)
		switch {
		case fenced && !open:
			out = append(out, Block{Line: n, Language: strings.TrimSpace(language)})
			open = true
		case fenced:
			open = false
		case open:
			out[len(out)-1].Text += line
		}
	}
	return out
}

// Commands returns what a reader is to type: each command on a line of its own, joined
// where it goes on after a backslash, without comments. A here-document belongs to its
// command. Blocks of other languages have none.
func (b Block) Commands() []string {
	var out []string
	var lines []string // of the command that is read
	end := ""          // of the here-document in it
	for line := range strings.Lines(b.Text) {
		line = strings.TrimRight(line, "\n")
		if len(lines) == 0 {
			typed, prompted := strings.CutPrefix(line, "$ ")
			if b.Language != "sh" && (b.Language != "console" || !prompted) {
				continue
			}
			line = typed
			if code := strings.TrimSpace(line); code == "" || strings.HasPrefix(code, "#") {
				continue
			}
		}
		switch {
		case end != "":
			lines = append(lines, line)
			if line != end {
				continue
			}
			end = ""
		default:
			line = uncommented(line)
			if cut, more := strings.CutSuffix(line, "\\"); more {
				lines = append(lines, strings.TrimSpace(cut))
				continue
			}
			if len(lines) > 0 {
				line = strings.Join(append(lines, strings.TrimSpace(line)), " ")
			}
			lines = []string{strings.TrimSpace(line)}
			if _, word, ok := strings.Cut(line, "<<"); ok {
				end = strings.Trim(strings.Fields(word)[0], `'"`)
				continue
			}
		}
		out = append(out, strings.Join(lines, "\n"))
		lines = nil
	}
	return out
}

// uncommented drops what stands after the command.
func uncommented(line string) string {
	if at := strings.Index(line, " # "); at >= 0 {
		line = line[:at]
	}
	return strings.TrimRight(line, " ")
}
