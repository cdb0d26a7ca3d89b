package flux

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// requestedAt is Flux's annotation to have an object looked at at once.
	requestedAt = "reconcile.fluxcd.io/requestedAt"
	// lookEvery is how often the objects are listed.
	lookEvery = 500 * time.Millisecond
	// fetchTimeout bounds the work on one GitRepository.
	fetchTimeout = 30 * time.Second
	// maxArtifact bounds an artifact, as source-controller's default does.
	maxArtifact = 50 << 20
)

var (
	repositories = schema.GroupVersionKind{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "GitRepositoryList"}
	commitID     = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// Source does the work of source-controller for GitRepositories that name a
// branch and need no password: it makes an artifact of the branch's files for each
// commit, serves it, and says so in the status.
type Source struct {
	client client.Client
	dir    string
	server *web
	next   map[client.ObjectKey]time.Time

	cancel context.CancelFunc
	group  sync.WaitGroup

	mu  sync.Mutex
	err error
}

// StartSource starts one that keeps its artifacts below dir.
func StartSource(ctx context.Context, c client.Client, dir string) (*Source, error) {
	artifacts := filepath.Join(dir, "artifacts")
	if err := os.MkdirAll(artifacts, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the artifacts: %w", err)
	}
	server, err := serve(ctx, http.FileServer(http.Dir(artifacts)))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Source{client: c, dir: dir, server: server, next: map[client.ObjectKey]time.Time{}, cancel: cancel}
	s.group.Go(func() { s.run(ctx) })
	return s, nil
}

// Stop ends it, and waits. It returns the last error of its work, if the work ended with one.
func (s *Source) Stop() error {
	s.cancel()
	s.group.Wait()
	return errors.Join(s.server.stop(), s.Err())
}

// Err returns what went wrong in the last round, if anything did. What is wrong
// with a repository stands in the status of its object.
func (s *Source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Source) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		err := s.round(ctx)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// round looks at every GitRepository once.
func (s *Source) round(ctx context.Context) error {
	var list unstructured.UnstructuredList
	list.SetGroupVersionKind(repositories)
	if err := s.client.List(ctx, &list); err != nil {
		return fmt.Errorf("list the GitRepositories: %w", err)
	}
	var errs []error
	for i := range list.Items {
		errs = append(errs, s.look(ctx, &list.Items[i], time.Now()))
	}
	return errors.Join(errs...)
}

// repository is what is read and written of a GitRepository.
type repository struct {
	Spec struct {
		URL      string          `json:"url"`
		Interval metav1.Duration `json:"interval"`
		Suspend  bool            `json:"suspend"`
		Ref      struct {
			Branch string `json:"branch"`
		} `json:"ref"`
	} `json:"spec"`
	Status status `json:"status"`
}

type status struct {
	ObservedGeneration     int64              `json:"observedGeneration"`
	LastHandledReconcileAt string             `json:"lastHandledReconcileAt,omitempty"`
	Conditions             []metav1.Condition `json:"conditions"`
	Artifact               *artifact          `json:"artifact,omitempty"`
}

type artifact struct {
	Path           string      `json:"path"`
	URL            string      `json:"url"`
	Revision       string      `json:"revision"`
	Digest         string      `json:"digest"`
	Size           int64       `json:"size"`
	LastUpdateTime metav1.Time `json:"lastUpdateTime"`
}

// look fetches a repository where that is due, and writes its status where it changed.
func (s *Source) look(ctx context.Context, o *unstructured.Unstructured, now time.Time) error {
	var r repository
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r); err != nil {
		return fmt.Errorf("GitRepository %s: %w", o.GetName(), err)
	}
	key := client.ObjectKeyFromObject(o)
	request := o.GetAnnotations()[requestedAt]
	due := r.Status.ObservedGeneration != o.GetGeneration() || r.Status.LastHandledReconcileAt != request || !now.Before(s.next[key])
	if r.Spec.Suspend || o.GetDeletionTimestamp() != nil || !due {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	made, err := s.fetch(ctx, key, &r, now)
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Succeeded", ObservedGeneration: o.GetGeneration()}
	if err != nil {
		made = r.Status.Artifact // the last one stays
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "GitOperationFailed", err.Error()
	} else {
		ready.Message = "stored artifact for revision '" + made.Revision + "'"
	}
	conditions := r.Status.Conditions
	apimeta.SetStatusCondition(&conditions, ready)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status{
		ObservedGeneration: o.GetGeneration(), LastHandledReconcileAt: request, Conditions: conditions, Artifact: made,
	})
	if err != nil {
		return err
	}
	patch := client.MergeFrom(o.DeepCopy())
	o.Object["status"] = content
	if err := s.client.Status().Patch(ctx, o, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the status of GitRepository %s: %w", key, err)
	}
	s.next[key] = now.Add(r.Spec.Interval.Duration)
	return nil
}

// fetch returns the artifact of the branch's newest commit: the one there is, where
// that is of this commit.
func (s *Source) fetch(ctx context.Context, key client.ObjectKey, r *repository, now time.Time) (*artifact, error) {
	ref := "refs/heads/" + r.Spec.Ref.Branch
	said, err := git(ctx, s.dir, "ls-remote", "--", r.Spec.URL, ref)
	if err != nil {
		return nil, err
	}
	commit, _, _ := strings.Cut(said, "\t")
	if !commitID.MatchString(commit) {
		return nil, fmt.Errorf("%s has no branch %q", r.Spec.URL, r.Spec.Ref.Branch)
	}
	revision := r.Spec.Ref.Branch + "@sha1:" + commit
	if a := r.Status.Artifact; a != nil && a.Revision == revision && strings.HasPrefix(a.URL, s.server.url) {
		return a, nil
	}
	text, err := s.archive(ctx, r.Spec.URL, ref, commit)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(key.Namespace, key.Name, commit+".tar.gz")
	file := filepath.Join(s.dir, "artifacts", path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("store the artifact: %w", err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, fmt.Errorf("store the artifact: %w", err)
	}
	sum := sha256.Sum256(text)
	return &artifact{Path: path, URL: s.server.url + "/" + path, Revision: revision, Digest: "sha256:" + hex.EncodeToString(sum[:]),
		Size: int64(len(text)), LastUpdateTime: metav1.NewTime(now)}, nil
}

// archive fetches a commit and returns its files as a compressed tar.
func (s *Source) archive(ctx context.Context, url, ref, commit string) ([]byte, error) {
	dir, err := os.MkdirTemp(s.dir, "fetched-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left goes with s.dir
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", dir},
		{"-C", dir, "fetch", "--quiet", "--depth=1", "--", url, ref},
	} {
		if _, err := git(ctx, s.dir, args...); err != nil {
			return nil, err
		}
	}
	// Of a tree, not a commit: that would begin with a header that not every reader knows.
	cmd := exec.CommandContext(ctx, "git", "-C", dir, "archive", "--format=tar.gz", commit+"^{tree}")
	cmd.Env = gitEnv(s.dir)
	out := bounded{left: maxArtifact}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("git archive: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

// bounded takes so many bytes and then refuses.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(p) > b.left {
		return 0, fmt.Errorf("more than %d bytes", maxArtifact)
	}
	b.left -= len(p)
	return b.Buffer.Write(p)
}
