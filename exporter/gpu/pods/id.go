package pods

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// id is what an identifier of a device says of a GPU. What it does not say is empty, and -1 for a number.
type id struct {
	uuid    string // of the GPU, with its prefix GPU-
	mig     string // UUID of the MIG device, with its prefix MIG-
	bus     string // PCI address, as bus has it
	minor   int    // the N of /dev/nvidiaN
	gi, ci  int    // GPU instance and compute instance of MIG
	profile string // of MIG, without what a name in DRA cannot have: 1g10gb
	inside  bool   // it is a part of the GPU, though perhaps not known which
}

var nothing = id{minor: -1, gi: -1, ci: -1}

// maxID is longer than any identifier: a UUID with its prefix and suffix has some 50 characters.
const maxID = 256

var (
	uuidPattern   = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]*$`)
	strictPattern = regexp.MustCompile(`^GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	oldMIGPattern = regexp.MustCompile(`^MIG-(GPU-[0-9A-Za-z-]+)/([0-9]+)/([0-9]+)$`)
	minorPattern  = regexp.MustCompile(`^nvidia([0-9]+)(?:/gi([0-9]+))?(?:/vgpu[0-9]+)?$`)
	busPattern    = regexp.MustCompile(`^([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})\.([0-7])$`)

	draGPUPattern = regexp.MustCompile(`^gpu-([0-9]+)$`)
	// gpu-0-mig-1g18gb-19-0: profile, its number, the place; before that gpu-0-mig-19-0-1: the number, the place, the size.
	draMIGPattern = regexp.MustCompile(`^gpu-([0-9]+)-mig-(?:([0-9a-z-]*g[0-9a-z-]*)-[0-9]+-[0-9]+|[0-9]+-[0-9]+-[0-9]+)$`)
	claimPattern  = regexp.MustCompile(`^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-(.+)$`)
)

// isGPU reports whether devices of the resource are GPUs, or the identifier is that of one. There is no list of all
// resources that are: nvidia.com/gpu may have been given another name, and nvidia.com has network devices too.
func isGPU(resource, text string) bool {
	vendor, name, _ := strings.Cut(resource, "/")
	switch {
	case vendor == "nvidia.com" && (name == "gpu" || strings.HasPrefix(name, "gpu.") || strings.HasPrefix(name, "mig-")):
		return true
	case vendor == "amd.com" && (name == "gpu" || strings.HasPrefix(name, "cpx") || strings.HasPrefix(name, "spx")):
		return true
	}
	return strings.HasPrefix(text, "GPU-") || strings.HasPrefix(text, "MIG-")
}

// parseID reads the identifier that a device plugin gave to a device. The error says what is wrong with it.
func parseID(text string) (id, error) {
	if len(text) > maxID {
		return nothing, fmt.Errorf("it has %d characters", len(text))
	}
	plain := text
	if before, replica, found := strings.Cut(text, "::"); found { // of a GPU that is shared by time or by MPS
		if _, err := number(replica); err != nil {
			return nothing, fmt.Errorf("replica %q is no number", replica)
		}
		plain = before
	}
	d := nothing
	if m := oldMIGPattern.FindStringSubmatch(plain); m != nil {
		if whole, err := parseID(m[1]); err != nil || whole.uuid != m[1] {
			return nothing, errors.New("it is of a GPU whose UUID is none")
		}
		var errs [2]error
		d.uuid, d.inside = m[1], true
		d.gi, errs[0] = number(m[2])
		d.ci, errs[1] = number(m[3])
		return checked(d, errs[:]...)
	}
	if m := minorPattern.FindStringSubmatch(plain); m != nil {
		var errs [2]error
		d.minor, errs[0] = number(m[1])
		if m[2] != "" {
			d.inside = true
			d.gi, errs[1] = number(m[2])
		}
		return checked(d, errs[:]...)
	}
	if address, err := bus(plain); err == nil {
		d.bus = address
		return d, nil
	}
	if rest, found := strings.CutPrefix(plain, "GPU-"); found && uuidPattern.MatchString(rest) {
		d.uuid = plain
		if m := strictPattern.FindString(plain); m != "" && m != plain { // with a -N behind it, as other plugins number replicas
			digits, replica := strings.CutPrefix(plain[len(m):], "-")
			if _, err := number(digits); err != nil || !replica {
				return nothing, errors.New("it is no UUID")
			}
			d.uuid = m
		}
		return d, nil
	}
	if rest, found := strings.CutPrefix(plain, "MIG-"); found && uuidPattern.MatchString(rest) && !strings.HasPrefix(rest, "GPU-") {
		d.mig, d.inside = plain, true
		return d, nil
	}
	return nothing, errors.New("no identifier of this form is known")
}

// parseDRA reads the name that the driver of a claim gave to a device, and where there is none those by which the
// runtime injects it (CDI). ok is false for drivers of other things than GPUs.
func parseDRA(driver, device string, cdi []string) (d id, ok bool, err error) {
	switch driver {
	case "gpu.nvidia.com":
	case "gpu.amd.com":
		return nothing, true, errors.New("AMD's driver names devices by numbers of its own")
	default:
		return nothing, false, nil
	}
	if device != "" {
		d, err = parseDRAName(device)
		return d, true, err
	}
	for _, name := range cdi {
		if d, err = parseCDI(name); err == nil {
			return d, true, nil
		}
	}
	return nothing, true, errors.New("it has neither a name nor a CDI device with one")
}

// parseDRAName reads a name such as gpu-0, whose number is that of /dev/nvidia0.
func parseDRAName(name string) (id, error) {
	d := nothing
	if len(name) > maxID {
		return d, fmt.Errorf("it has %d characters", len(name))
	}
	if m := draGPUPattern.FindStringSubmatch(name); m != nil {
		var err error
		d.minor, err = number(m[1])
		return checked(d, err)
	}
	if m := draMIGPattern.FindStringSubmatch(name); m != nil {
		var err error
		d.minor, err = number(m[1])
		d.profile, d.inside = m[2], true
		return checked(d, err)
	}
	if strings.HasPrefix(name, "gpu-vfio-") {
		return d, errors.New("the GPU is passed through to a virtual machine")
	}
	if rest, found := strings.CutPrefix(name, "gpu-"); found && strictPattern.FindString("GPU-"+rest) == "GPU-"+rest {
		d.uuid = "GPU-" + rest
		return d, nil
	}
	return d, errors.New("no name of this form is known")
}

// parseCDI reads the qualified name of a CDI device: k8s.gpu.nvidia.com/claim=<UID of the claim>-gpu-0.
func parseCDI(name string) (id, error) {
	kind, device, _ := strings.Cut(name, "=")
	switch kind {
	case "k8s.gpu.nvidia.com/claim":
		if m := claimPattern.FindStringSubmatch(device); m != nil {
			return parseDRAName(m[1])
		}
	case "k8s.gpu.nvidia.com/device":
		return parseDRAName(device)
	case "nvidia.com/gpu":
		if d, err := parseID(device); err == nil && (d.uuid != "" || d.mig != "") {
			return d, nil
		}
	}
	return nothing, errors.New("no CDI name of this form is known")
}

// bus returns a PCI address with four digits of its domain: NVML writes eight.
func bus(address string) (string, error) {
	m := busPattern.FindStringSubmatch(address)
	if m == nil {
		return "", fmt.Errorf("%q is no PCI address", address)
	}
	domain, err := strconv.ParseUint(m[1], 16, 32)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%04x:%s:%s.%s", domain, strings.ToLower(m[2]), strings.ToLower(m[3]), m[4]), nil
}

// number reads digits; no node has a GPU of a number with more than four.
func number(digits string) (int, error) {
	if len(digits) > 4 {
		return -1, fmt.Errorf("%q is too large a number", digits)
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return -1, fmt.Errorf("%q is no number", digits)
	}
	return int(n), nil
}

// checked returns d, or nothing of it if there is an error.
func checked(d id, errs ...error) (id, error) {
	if err := errors.Join(errs...); err != nil {
		return nothing, err
	}
	return d, nil
}
