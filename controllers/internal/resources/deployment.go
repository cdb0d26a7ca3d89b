package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"
	strictjson "sigs.k8s.io/json"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// ContainerName is the name of the node's container in its pod.
const ContainerName = "node"

// ErrPodTemplate is wrapped by errors about spec.podTemplate.
var ErrPodTemplate = errors.New("spec.podTemplate")

const user = 65532 // the distroless images' nonroot

// Run is what was decided about a node's pod beyond its spec.
type Run struct {
	Image      string
	ConfigHash string
}

// Deployment runs the node: one replica, none while suspended, and Recreate,
// because the store has one writer. The error wraps ErrPodTemplate.
func Deployment(n *v1alpha1.KoiNode, run Run) (*appsv1.Deployment, error) {
	template, err := merge(podTemplate(n, run), n.Spec.PodTemplate)
	if err != nil {
		return nil, err
	}
	if err := checkTemplate(n, run, template); err != nil {
		return nil, err
	}
	replicas := int32(1)
	if n.Spec.Suspend {
		replicas = 0
	}
	return &appsv1.Deployment{
		ObjectMeta: owned(n, n.Name),
		Spec: appsv1.DeploymentSpec{
			Replicas:             ptr.To(replicas),
			RevisionHistoryLimit: ptr.To(int32(3)),
			Strategy:             appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Selector:             &metav1.LabelSelector{MatchLabels: Selector(n)},
			Template:             template,
		},
	}, nil
}

func podTemplate(n *v1alpha1.KoiNode, run Run) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      Labels(n),
			Annotations: map[string]string{v1alpha1.AnnotationConfigHash: run.ConfigHash},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName:            n.Name,
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false), // KOI_* variables are settings
			TerminationGracePeriodSeconds: ptr.To(int64(30)),
			ImagePullSecrets:              n.Spec.ImagePullSecrets,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:        ptr.To(true),
				RunAsUser:           ptr.To(int64(user)),
				RunAsGroup:          ptr.To(int64(user)),
				FSGroup:             ptr.To(int64(user)),
				FSGroupChangePolicy: ptr.To(corev1.FSGroupChangeOnRootMismatch),
				SeccompProfile:      &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{container(n, run)},
			Volumes:    volumes(n),
		},
	}
}

func container(n *v1alpha1.KoiNode, run Run) corev1.Container {
	ports := []corev1.ContainerPort{
		{Name: "admin", ContainerPort: AdminPort, Protocol: corev1.ProtocolTCP},
		{Name: "metrics", ContainerPort: MetricsPort, Protocol: corev1.ProtocolTCP},
	}
	if !n.IsPartial() {
		ports = append(ports, corev1.ContainerPort{Name: PortName, ContainerPort: ProtocolPort, Protocol: corev1.ProtocolTCP})
	}
	return corev1.Container{
		Name:            ContainerName,
		Image:           run.Image,
		ImagePullPolicy: n.Spec.ImagePullPolicy,
		Args: []string{
			"run",
			"--config", ConfigDir + "/" + ConfigFile,
			"--admin-token-file", AdminDir + "/token",
			"--admin-tls-cert", AdminDir + "/tls.crt",
			"--admin-tls-key", AdminDir + "/tls.key",
		},
		Env: []corev1.EnvVar{
			{Name: "KOI_CONFIG_HASH", Value: run.ConfigHash},
			// For koi-node's other subcommands, run in the pod.
			{Name: "KOI_ADMIN", Value: fmt.Sprintf("https://127.0.0.1:%d", AdminPort)},
			{Name: "KOI_ADMIN_TOKEN_FILE", Value: AdminDir + "/token"},
			{Name: "KOI_ADMIN_CA_FILE", Value: AdminDir + "/tls.crt"},
		},
		Ports:     ports,
		Resources: containerResources(n),
		VolumeMounts: []corev1.VolumeMount{
			{Name: "config", MountPath: ConfigDir, ReadOnly: true},
			{Name: "admin", MountPath: AdminDir, ReadOnly: true},
			{Name: "identity", MountPath: IdentityDir, ReadOnly: true},
			{Name: "data", MountPath: DataDir},
		},
		// A store of many bundles takes its time to open: five minutes.
		StartupProbe:             probe("/readyz", 1, 300),
		ReadinessProbe:           probe("/readyz", 5, 3),
		LivenessProbe:            probe("/healthz", 10, 6),
		TerminationMessagePath:   corev1.TerminationMessagePathDefault,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false),
			ReadOnlyRootFilesystem:   ptr.To(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

func containerResources(n *v1alpha1.KoiNode) corev1.ResourceRequirements {
	if n.Spec.Resources != nil {
		return *n.Spec.Resources
	}
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("10m"),
			corev1.ResourceMemory: resource.MustParse("64Mi"),
		},
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
	}
}

func probe(path string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromString("admin"), Scheme: corev1.URISchemeHTTPS,
		}},
		PeriodSeconds:    period,
		TimeoutSeconds:   5,
		FailureThreshold: failures,
	}
}

func volumes(n *v1alpha1.KoiNode) []corev1.Volume {
	data := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: n.ClaimName()}}
	if n.IsEphemeral() {
		data = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(StorageSize(n))}}
	}
	secret := func(name string) corev1.VolumeSource {
		return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: ptr.To(int32(0o440))}}
	}
	return []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: n.ConfigMapName()},
		}}},
		{Name: "admin", VolumeSource: secret(n.AdminSecretName())},
		{Name: "identity", VolumeSource: secret(n.IdentitySecretName())},
		{Name: "data", VolumeSource: data},
	}
}

// merge lays the user's template over ours by strategic merge: lists with a
// key (containers, volumes, env) merge by it, and "$patch: delete" or null
// remove what we made.
func merge(base corev1.PodTemplateSpec, over *runtime.RawExtension) (corev1.PodTemplateSpec, error) {
	if over == nil || len(over.Raw) == 0 {
		return base, nil
	}
	original, err := json.Marshal(base)
	if err != nil {
		return base, fmt.Errorf("encode the pod template: %w", err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, over.Raw, corev1.PodTemplateSpec{})
	if err != nil {
		return base, fmt.Errorf("%w cannot be merged: %w", ErrPodTemplate, err)
	}
	var out corev1.PodTemplateSpec
	strict, err := strictjson.UnmarshalStrict(merged, &out)
	if err != nil {
		return base, fmt.Errorf("%w is not a pod template: %w", ErrPodTemplate, err)
	}
	if len(strict) > 0 {
		return base, fmt.Errorf("%w: %w", ErrPodTemplate, errors.Join(strict...))
	}
	return out, nil
}

// checkTemplate refuses a merge that took away what the operator stands on.
func checkTemplate(n *v1alpha1.KoiNode, run Run, t corev1.PodTemplateSpec) error {
	want := Selector(n)
	want[LabelManagedBy] = ManagedBy
	got := maps.Clone(t.Labels)
	maps.DeleteFunc(got, func(k, _ string) bool { _, ok := want[k]; return !ok })
	if !maps.Equal(want, got) {
		return fmt.Errorf("%w must leave the labels %v alone: the operator finds the node's pod by them", ErrPodTemplate, want)
	}
	if t.Annotations[v1alpha1.AnnotationConfigHash] != run.ConfigHash {
		return fmt.Errorf("%w must leave the annotation %s alone", ErrPodTemplate, v1alpha1.AnnotationConfigHash)
	}
	for _, c := range t.Spec.Containers {
		if c.Name == ContainerName {
			return nil
		}
	}
	return fmt.Errorf("%w must leave the container %q in place", ErrPodTemplate, ContainerName)
}
