//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/up/deploy"
)

// backedUpAndRestored goes through docs/operator.md's way to back a store up and to
// bring it back, with the manifests of config/backup.
func backedUpAndRestored(t *testing.T, s *suite) {
	image := s.k(t, "get", "deployment", deploy.Operator, "-n", deploy.SystemNamespace,
		"-o", `jsonpath={.spec.template.spec.containers[0].env[?(@.name=="KOI_NODE_IMAGE")].value}`)
	manifest := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(s.root, "config", "backup", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer("coordinator", "sensor", "ghcr.io/koi-net/koi-node:dev", image).Replace(string(text))
	}
	const kept, later = "orn:git.commit:backed-up", "orn:git.commit:after-the-backup"
	s.put(t, kept, `{"when":"before"}`)
	rid := s.get(t, "koinode", "sensor").Status.RID

	s.apply(t, manifest("backup.yaml"))
	s.k(t, "create", "job", "--from=cronjob/sensor-backup", "sensor-backup-now")
	s.k(t, "wait", "job/sensor-backup-now", "--for=condition=Complete", "--timeout=2m")
	s.put(t, later, `{"when":"after"}`)

	s.k(t, "patch", "koinode", "sensor", "--type=merge", "-p", `{"spec":{"suspend":true}}`)
	s.k(t, "wait", "koinode/sensor", "--for=condition=Suspended", "--timeout=1m")
	s.apply(t, manifest("restore.yaml"))
	s.k(t, "wait", "job/sensor-restore", "--for=condition=Complete", "--timeout=2m")
	s.k(t, "patch", "koinode", "sensor", "--type=merge", "-p", `{"spec":{"suspend":false}}`)
	if again := s.waitReady(t, "koinode", "sensor"); again.Status.RID != rid {
		t.Errorf("the node is %s, and was %s", again.Status.RID, rid)
	}
	s.waitAt(t, "sensor", kept, `{"when":"before"}`)
	if out, err := s.koi("sensor", "", "get", later); err == nil {
		t.Errorf("what came after the backup is there: %s", out)
	}
	// The reader holds what the sensor has no more, and goes on with it.
	s.waitEdges(t)

	s.mustKoi(t, "sensor", "", "forget", kept)
	s.k(t, "delete", "job/sensor-restore", "job/sensor-backup-now", "cronjob/sensor-backup", "service/sensor-backup")
	s.k(t, "delete", "pvc/sensor-backups", "--wait=false")
	eventually(t, "the volume of the backups goes", time.Minute, func() (bool, string) {
		return len(s.list(t, "pvc", "--field-selector=metadata.name=sensor-backups")) == 0, ""
	})
}
