package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// CommitType is the RID type of a commit.
const CommitType = "orn:git.commit"

// Commit is one commit of a repository, as a bundle.
type Commit struct {
	RID      string   `json:"rid"`
	Contents Contents `json:"contents"`
}

// Contents are the contents of a commit's bundle.
type Contents struct {
	Author  string   `json:"author"`
	Date    string   `json:"date"` // of the author, ISO 8601
	Subject string   `json:"subject"`
	Files   []string `json:"files"`
}

// Commits returns the history of the checkout's HEAD, the oldest commit first.
func Commits(ctx context.Context, root string) ([]Commit, error) {
	if err := exec.CommandContext(ctx, "git", "-C", root, "rev-parse", "--verify", "--quiet", "HEAD").Run(); err != nil {
		return nil, fmt.Errorf("%s has no Git history to feed: clone the repository with git: %w", root, err)
	}
	var stdout, stderr bytes.Buffer
	// %x01 begins a commit, NUL ends each of its fields and file names.
	cmd := exec.CommandContext(ctx, "git", "-C", root, "-c", "core.quotePath=false", "log", "--reverse", "--diff-merges=first-parent",
		"--name-only", "-z", "--format=%x01%H%x00%an <%ae>%x00%aI%x00%s%x00")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("git log: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return parseLog(stdout.String())
}

// parseLog reads what git log prints for the format above.
func parseLog(text string) ([]Commit, error) {
	var out []Commit
	for _, record := range strings.Split(text, "\x01")[1:] {
		f := strings.Split(record, "\x00")
		if len(f) < 5 || f[0] == "" {
			return nil, errors.New("git log: its answer is not of the form asked for")
		}
		c := Commit{RID: CommitType + ":" + f[0], Contents: Contents{Author: f[1], Date: f[2], Subject: f[3], Files: []string{}}}
		for _, name := range f[4:] {
			if name = strings.TrimPrefix(name, "\n"); name != "" {
				c.Contents.Files = append(c.Contents.Files, name)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// lines writes commits as one JSON object a line.
func lines(commits []Commit) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	for _, c := range commits {
		if err := enc.Encode(c); err != nil {
			return nil, fmt.Errorf("encode commit %s: %w", c.RID, err)
		}
	}
	return out.Bytes(), nil
}
