package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keptPrefix and keptSuffix enclose the time in the names of backups that --keep
// counts: the names sort as the times do.
const (
	keptPrefix = "koi-"
	keptSuffix = ".backup"
	keptTime   = "20060102T150405.000Z"
)

// keptName is the name of a backup that is taken now.
func keptName(now time.Time) string { return keptPrefix + now.UTC().Format(keptTime) + keptSuffix }

// kept lists the backups of a directory, oldest first.
func kept(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		text, ours := strings.CutPrefix(e.Name(), keptPrefix)
		text, whole := strings.CutSuffix(text, keptSuffix)
		if _, err := time.Parse(keptTime, text); !ours || !whole || err != nil || !e.Type().IsRegular() {
			continue
		}
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

// prune removes the oldest backups of a directory but for the newest ones, and what
// backups that were killed left behind.
func prune(dir string, keep int) error {
	names, err := kept(dir)
	if err != nil {
		return err
	}
	var errs []error
	parts, err := filepath.Glob(filepath.Join(dir, "."+keptPrefix+"*"+keptSuffix+".part-*"))
	if err != nil {
		return err
	}
	for _, part := range parts {
		errs = append(errs, os.Remove(part))
	}
	for _, name := range names[:max(0, len(names)-keep)] {
		errs = append(errs, os.Remove(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// newest is the newest backup of a directory, and file itself where it is none.
func newest(file string) (string, error) {
	st, err := os.Stat(file)
	if file == "-" || err != nil || !st.IsDir() {
		return file, nil // what is wrong with it shows where it is read
	}
	names, err := kept(file)
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", fmt.Errorf("there is no backup %s%s%s in %s: %w", keptPrefix, "TIME", keptSuffix, file, os.ErrNotExist)
	}
	return filepath.Join(file, names[len(names)-1]), nil
}
