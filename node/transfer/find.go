package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Errors callers decide on.
var (
	// ErrNoNode: the directory holds no node of the library.
	ErrNoNode = errors.New("no node of the Python library")
	// ErrSource: what the library left cannot be taken over as it is.
	ErrSource = errors.New("this node cannot be taken over")
)

const (
	// maxConfig bounds config.yaml, identity.json and the other small files.
	maxConfig = 1 << 20
	// maxCandidates bounds how many files are looked into for being a node's.
	maxCandidates = 100
)

// Places name files that are elsewhere than the library puts them by default. A
// relative path is relative to the working directory. "" stands for Find's own
// search.
type Places struct {
	// Config is the configuration file, or the identity file of a 1.0 beta.
	Config string
	// Cache is the cache's directory.
	Cache string
	// Key is the private key's file.
	Key string
}

// Plan is what was found of a node of the library, and what becomes of it.
type Plan struct {
	// Dir is the node's directory. Relative paths in its configuration are
	// taken as relative to it, as the library is run there.
	Dir    string  `json:"dir"`
	Layout Layout  `json:"layout"`
	Config string  `json:"config"`
	RID    rid.RID `json:"rid"`
	// Cache is the cache's directory; it need not be there.
	Cache      string `json:"cache"`
	CacheFound bool   `json:"cacheFound"`
	// Key is the private key's file; "" for a node of the unsigned generation.
	Key string `json:"key,omitempty"`
	// Queues is the file with the events that wait for others, where the
	// release has one and it is there.
	Queues string `json:"queues,omitempty"`
	// PasswordVariable is the environment variable in which the library expects
	// the key's password.
	PasswordVariable string `json:"-"`

	Profile         protocol.NodeProfile `json:"profile"`
	Listen          string               `json:"listen,omitempty"`
	Coordinator     bool                 `json:"coordinator,omitempty"`
	Interests       []rid.Type           `json:"interests"`
	FirstContact    string               `json:"firstContact,omitempty"`
	FirstContactRID rid.RID              `json:"firstContactRID,omitempty"`
	PollInterval    time.Duration        `json:"-"`
	// contactSaid is the first contact's URL in the configuration itself.
	contactSaid string

	// Notes are what a person should know: what was guessed, and what has no
	// place in a node of this kind.
	Notes []string `json:"notes,omitempty"`
}

// Signed reports whether the node is of the signed generation.
func (p Plan) Signed() bool { return rid.IsKeyed(p.RID) }

// Find looks for a node of the library in dir. It opens neither the key nor
// the bundles, but the edges among them, which tell what the node has subscribed to.
// The error wraps ErrNoNode or ErrSource, or is that of the file system.
func Find(dir string, at Places) (Plan, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Plan{}, fmt.Errorf("%w: %s is not there", ErrNoNode, dir)
	case err != nil:
		return Plan{}, err
	case !info.IsDir():
		return Plan{}, fmt.Errorf("%w: %s is no directory; name the directory the node was run in", ErrNoNode, dir)
	}
	file, found, err := findConfig(dir, at.Config)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{
		Dir: dir, Layout: found.layout, Config: file, RID: found.rid, Profile: found.profile,
		PasswordVariable: found.passwordVariable, Listen: found.listen, Interests: found.interests,
		FirstContact: found.contact, contactSaid: found.contact, FirstContactRID: found.contactRID, PollInterval: found.poll,
	}
	if err := p.check(); err != nil {
		return Plan{}, fmt.Errorf("%w: %s: %w", ErrSource, file, err)
	}
	if err := p.locate(found, at); err != nil {
		return Plan{}, err
	}
	if err := p.survey(); err != nil {
		return Plan{}, err
	}
	p.note(found)
	return p, nil
}

// check sees to what every node needs, in the form in which a node of ours
// takes it.
func (p *Plan) check() error {
	if p.RID == "" {
		return errors.New("it says no node_rid: the node has never run, so there is no identity to take over; start a new one instead")
	}
	if p.Profile.NodeType == protocol.Partial {
		p.Profile.BaseURL = "" // 1.0 makes one up for every node
	}
	if err := p.Profile.Validate(); err != nil {
		return err
	}
	switch {
	case !p.Signed() && p.Profile.PublicKey != "":
		return fmt.Errorf("the profile has a public key, but the RID %s was not made from one: set node_rid to the RID that belongs to the key", p.RID)
	case !p.Profile.KeyMatches(p.RID):
		return fmt.Errorf("the public key in the profile is not the one %s was made from: restore the right one", p.RID)
	}
	return nil
}

// findConfig returns the file that tells of the node, and what it says.
func findConfig(dir, given string) (string, python, error) {
	if given != "" {
		p, err := readNode(given)
		return given, p, err
	}
	for _, name := range []string{configName, identityName} {
		path := filepath.Join(dir, name)
		p, err := readNode(path)
		switch {
		case err == nil:
			return path, p, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNoNode):
			return "", python{}, err
		}
	}
	return searchConfig(dir)
}

// searchConfig looks into the other files for the one that was given another
// name in the node's code.
func searchConfig(dir string) (path string, p python, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return "", python{}, err
	}
	looked, network := 0, false
	var faulty error
	for _, f := range files {
		network = network || f.Name() == networkName
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(f.Name())) || !f.Type().IsRegular() || looked == maxCandidates {
			continue
		}
		looked++
		candidate := filepath.Join(dir, f.Name())
		found, err := readNode(candidate)
		switch {
		case errors.Is(err, ErrSource):
			faulty = err // or some other program's
			continue
		case err != nil:
			continue
		case path != "":
			return "", python{}, fmt.Errorf("%w: %s and %s each tell of a node: name the one to take over", ErrSource, path, candidate)
		}
		path, p = candidate, found
	}
	switch {
	case path != "":
		return path, p, nil
	case network:
		return "", python{}, fmt.Errorf("%w in %s: it holds a network (%s): name the directory of one of its nodes", ErrNoNode, dir, networkName)
	}
	err = fmt.Errorf("%w in %s: there is neither a %s with a section koi_net nor an %s; name the directory the node was run in, or its configuration file", ErrNoNode, dir, configName, identityName)
	if faulty != nil {
		err = fmt.Errorf("%w (%s)", err, faulty.Error())
	}
	return "", python{}, err
}

// readNode reads a configuration or identity file, which its name tells apart.
// The error wraps ErrNoNode where it is some other program's.
func readNode(path string) (p python, err error) {
	text, err := readPath(path, maxConfig)
	if err != nil {
		return python{}, err
	}
	if filepath.Ext(path) == suffix {
		p, err = parseIdentity(text)
	} else {
		p, err = parseConfig(text)
	}
	switch {
	case errors.Is(err, errNotNode):
		return python{}, fmt.Errorf("%w: %s: %w", ErrNoNode, path, err)
	case err != nil:
		return python{}, fmt.Errorf("%w: %s: %w", ErrSource, path, err)
	}
	return p, nil
}

func readPath(path string, limit int64) ([]byte, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	text, err := readFile(os.DirFS(filepath.Dir(path)), filepath.Base(path), limit)
	var in *fs.PathError
	if errors.As(err, &in) {
		in.Path = path // DirFS tells the base name alone
	}
	return text, err
}

// locate finds cache, key and queues. They may be anywhere: the configuration is
// the user's own.
func (p *Plan) locate(found python, at Places) error {
	p.Cache = p.path(found.cache)
	if at.Cache != "" {
		p.Cache = at.Cache
	}
	info, err := os.Stat(p.Cache)
	p.CacheFound = err == nil && info.IsDir()
	switch {
	case p.CacheFound:
	case at.Cache != "":
		return fmt.Errorf("%w: there is no cache at %s", ErrSource, at.Cache)
	case p.Layout == LayoutIdentity:
		if dir, ok := p.searchCache(); ok {
			p.Cache, p.CacheFound = dir, true
		}
	}
	switch {
	case at.Key != "":
		p.Key = at.Key
	case p.Signed():
		key := found.key
		if key == "" {
			key = defaultKey
		}
		p.Key = p.path(key)
	}
	if found.queues != "" {
		if path := p.path(found.queues); isFile(path) {
			p.Queues = path
		}
	}
	return nil
}

// path makes a path of the configuration one of the file system.
func (p *Plan) path(configured string) string {
	path := configured
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.Dir, path)
	}
	if rel, err := filepath.Rel(p.Dir, path); err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		p.Notes = append(p.Notes, fmt.Sprintf("%s lies outside %s, as the configuration says", path, p.Dir))
	}
	return path
}

// searchCache looks for the directory beside the identity file that holds the
// node's own bundle.
func (p *Plan) searchCache() (string, bool) {
	name, err := FileName(p.RID)
	if err != nil {
		return "", false
	}
	dirs, err := os.ReadDir(p.Dir)
	if err != nil {
		return "", false
	}
	for i, d := range dirs {
		if dir := filepath.Join(p.Dir, d.Name()); i < maxCandidates && d.IsDir() && isFile(filepath.Join(dir, name)) {
			return dir, true
		}
	}
	return "", false
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// survey reads from the cache what the configuration leaves open: the URL of a
// first contact that is given by RID alone, and the interests of a release that
// subscribes in code.
func (p *Plan) survey() error {
	interests, contact := p.Interests == nil, p.FirstContactRID != "" && p.FirstContact == ""
	if interests {
		p.Interests = []rid.Type{rid.NodeType}
	}
	if !p.CacheFound || !interests && !contact {
		return nil
	}
	return withCache(p.Cache, func(cache fs.FS) error {
		list, err := entries(cache)
		if err != nil {
			return err
		}
		if interests {
			p.Interests = p.subscribed(cache, list)
		}
		if contact {
			p.FirstContact = p.baseURL(cache, list, p.FirstContactRID)
		}
		return nil
	})
}

// subscribed returns nodes, and what the edges towards the node carry.
func (p *Plan) subscribed(cache fs.FS, list []entry) []rid.Type {
	types := []rid.Type{rid.NodeType}
	for e := range edges(cache, list) {
		if e.Target != p.RID {
			continue
		}
		for _, t := range e.RIDTypes {
			if t == rid.EdgeType && p.coordinates() {
				continue // a coordinator asks newcomers for them anyway
			}
			if !slices.Contains(types, t) {
				types = append(types, t)
			}
		}
	}
	slices.Sort(types[1:])
	return types
}

func (p *Plan) baseURL(cache fs.FS, list []entry, r rid.RID) string {
	for _, e := range list {
		if e.rid != r {
			continue
		}
		if b, err := bundle(cache, e, protocol.Limits{}); err == nil && soundNode(b, *p) == nil {
			profile, _ := protocol.ParseNodeProfile(b.Contents) // it is sound
			return profile.BaseURL
		}
	}
	return ""
}

// coordinates reports whether the node gives out nodes and edges, events and
// state, as only coordinators do. That it answers handshakes is in its code.
func (p *Plan) coordinates() bool {
	for _, types := range [][]rid.Type{p.Profile.Provides.Event, p.Profile.Provides.State} {
		if !slices.Contains(types, rid.NodeType) || !slices.Contains(types, rid.EdgeType) {
			return false
		}
	}
	return p.Profile.NodeType == protocol.Full
}

// note says what a person should know.
func (p *Plan) note(found python) {
	say := func(when bool, format string, args ...any) {
		if when {
			p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
		}
	}
	full := p.Profile.NodeType == protocol.Full
	p.Coordinator = p.coordinates()
	say(!p.CacheFound, "there is no cache at %s: the node is taken over without knowledge", p.Cache)
	say(p.Coordinator, "it gives out nodes and edges, so it is taken for a coordinator, which answers handshakes; set coordinator to false if it is none")
	say(p.FirstContactRID != "" && p.FirstContact == "", "the first contact %s is given without a URL, and the cache has none: set first-contact", p.FirstContactRID)
	if p.FirstContact == "" {
		p.FirstContactRID = ""
	}
	say(p.Layout == LayoutIdentity, "a node of this release has its first contact in its code: set first-contact, if it has one")
	say(p.Layout == LayoutIdentity && full && p.Listen == "", "where it listens is in its code, and its base URL does not tell: set listen")
	say(p.Layout == LayoutIdentity && p.Listen != "", "where it listens is in its code: %s is that of its base URL", p.Listen)
	say(found.interests == nil, "a node of this release subscribes in its code: its interests are those of the edges it has")
	if path := pathOf(p.Profile.BaseURL); full && p.Layout != LayoutIdentity && path != strings.TrimRight(found.path, "/") {
		say(true, "its server was at the path %q, and its base URL says %q: the proxy before it has to pass that path on", found.path, path)
	}
	say(!p.Signed() && isFile(filepath.Join(p.Dir, defaultKey)), "%s is not the key of this node, whose RID was not made from one", filepath.Join(p.Dir, defaultKey))
	say(true, "handlers in the node's Python code are not taken over")
}
