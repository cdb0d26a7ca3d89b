package feed

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommits reads the history of a repository made for it.
func TestCommits(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull,
			"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_AUTHOR_DATE=2026-01-02T03:04:05+01:00",
			"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q")
	if _, err := Commits(t.Context(), dir); err == nil {
		t.Fatal("a repository without commits has a history")
	}
	write("a.txt", "1")
	write("ü \"b\".txt", "2")
	git("add", ".")
	git("commit", "-q", "-m", "First: \"quotes\" & <angles>\n\nBody is left out.")
	git("commit", "-q", "--allow-empty", "-m", "Empty")
	write("a.txt", "3")
	git("commit", "-q", "-a", "-m", "Third")

	commits, err := Commits(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(commits) != 3 {
		t.Fatalf("%d commits, want 3", len(commits))
	}
	first := commits[0]
	if !strings.HasPrefix(first.RID, "orn:git.commit:") || len(first.RID) != len("orn:git.commit:")+40 {
		t.Errorf("RID %q", first.RID)
	}
	if first.Contents.Author != "Ada <ada@example.com>" || first.Contents.Date != "2026-01-02T03:04:05+01:00" {
		t.Errorf("contents %+v", first.Contents)
	}
	if got := strings.Join(first.Contents.Files, "|"); got != "a.txt|ü \"b\".txt" {
		t.Errorf("files %q", got)
	}
	if commits[1].Contents.Subject != "Empty" || len(commits[1].Contents.Files) != 0 {
		t.Errorf("empty commit %+v", commits[1])
	}
	text, err := lines(commits[:1])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"rid":"` + first.RID + `","contents":{"author":"Ada <ada@example.com>","date":"2026-01-02T03:04:05+01:00",` +
		`"subject":"First: \"quotes\" & <angles>","files":["a.txt","ü \"b\".txt"]}}` + "\n"
	if string(text) != want {
		t.Errorf("line\n%s\nwant\n%s", text, want)
	}
	if left := without(commits, []string{commits[0].RID, commits[2].RID}); len(left) != 1 || left[0].RID != commits[1].RID {
		t.Errorf("left over: %v", left)
	}
}

func TestParseLogRefusesOtherForms(t *testing.T) {
	if _, err := parseLog("\x01abc\x00only"); err == nil {
		t.Error("a record without all fields was taken")
	}
}
