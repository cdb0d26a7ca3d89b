// Package reference installs released versions of the Python reference of
// KOI-net, each into an environment of its own outside the repository.
//
// It owns the list of releases, the versions of every package that each needs
// (requirements/VERSION.txt, complete, so that nothing is resolved at install
// time), and the Python to run them: the machine's own where it is 3.12 or
// 3.13, else one taken from Debian's packages. That one is a directory with
// the /usr of a newer Debian; a program sees it in place of the machine's /usr
// in a mount namespace of its own, so that everything else (certificates, the
// settings of pip, home, temporary directories) is the machine's. It needs
// debootstrap, which downloads and checks the packages, and root.
//
// Environments are kept in the cache that hack/cluster uses, under the same
// rules: a directory there is complete or absent, its name says what it was
// made from, and a lock file keeps two runs apart. Imports hack/cluster/assets
// and the standard library.
package reference
