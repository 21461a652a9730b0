package gpu

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// smi reads GPUs by the command nvidia-smi, which asks NVML in a process of its own: one at a time, ended at the deadline.
// It is dearer than NVML, and has neither energy, NVLink, activity of units, MIG instances nor XIDs.
type smi struct {
	asked     string // the command; empty to look for it
	processes bool

	path   string
	fields []smiField         // those of smiFields that the command knows; nil before it was asked
	names  []string           // what it calls them
	seen   map[string]smiSeen // by PCI bus id, the GPUs that were read

	running map[string][]Process // by UUID, as they were listed last; nil before that
}

// smiSeen is what is remembered of a GPU that may not tell it any more.
type smiSeen struct {
	uuid  string
	index int
}

// smiPlaces is where nvidia-smi is where it is not in $PATH: NVIDIA's GPU operator and Windows Subsystem for Linux.
var smiPlaces = [...]string{"/run/nvidia/driver/usr/bin/nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi"}

// maxSMI bounds what the command says, in bytes: 16 GPUs with 1,000 processes take less than 200 KiB.
const maxSMI = 1 << 20

func (s *smi) read(ctx context.Context, want tiers) (readings, error) {
	if err := s.find(); err != nil {
		return readings{}, err
	}
	if s.fields == nil {
		if err := s.learn(ctx); err != nil {
			return readings{}, err
		}
	}
	got, err := s.query(ctx)
	if err != nil {
		s.fields = nil // the driver may be another by the next time
		return readings{}, err
	}
	if !s.processes || len(got.Devices) == 0 {
		return got, nil
	}
	if s.running != nil && !want.has(tierProcesses) {
		for i := range got.Devices {
			if d := &got.Devices[i]; d.Error == "" {
				d.Processes = s.running[d.UUID]
			}
		}
		return got, nil
	}
	s.running = map[string][]Process{}
	if err := s.queryProcesses(ctx, got.Devices); ctx.Err() != nil {
		s.running = nil
		return readings{}, ctx.Err()
	} else if err != nil { // the GPUs are read all the same
		for i := range got.Devices {
			got.Devices[i].Faults = append(got.Devices[i].Faults, err.Error())
		}
	}
	for _, d := range got.Devices {
		s.running[d.UUID] = d.Processes
	}
	return got, nil
}

// find looks for the command.
func (s *smi) find() error {
	var err error
	s.path, err = exec.LookPath(cmp.Or(s.asked, "nvidia-smi"))
	if err == nil {
		return nil
	}
	tried := []string{err.Error()}
	if s.asked == "" {
		for _, place := range smiPlaces {
			if s.path, err = exec.LookPath(place); err == nil {
				return nil
			}
			tried = append(tried, err.Error())
		}
	}
	return &absentError{tried: tried}
}

// learn asks which fields the command knows: old ones know fewer, and fail over one that they do not know.
func (s *smi) learn(ctx context.Context) error {
	said, err := s.run(ctx, "--help-query-gpu")
	if err != nil {
		return err
	}
	if err := said.absent(); err != nil {
		return err
	}
	known := smiKnown(said.text)
	for _, f := range smiFields {
		for _, name := range f.names {
			if known[name] {
				s.fields, s.names = append(s.fields, f), append(s.names, name)
				break
			}
		}
	}
	if len(s.fields) == 0 {
		if said.code != 0 {
			return said.failed()
		}
		return fmt.Errorf("nvidia-smi --help-query-gpu: lists no field that is known here: %s", said.brief())
	}
	return nil
}

func (s *smi) query(ctx context.Context) (readings, error) {
	args := []string{"--query-gpu=" + strings.Join(s.names, ","), "--format=csv,noheader,nounits"}
	said, err := s.run(ctx, args...)
	if err != nil {
		return readings{}, err
	}
	table := parseSMI(said.text, s.fields, s.seen)
	if len(table.devices) == 0 && len(table.lost) > 0 { // old commands give up all GPUs over one
		var others []string
		for bus, g := range s.seen {
			if table.lost[bus] == "" {
				others = append(others, g.uuid)
			}
		}
		if len(others) > 0 {
			if said, err = s.run(ctx, append(args, "--id="+strings.Join(others, ","))...); err != nil {
				return readings{}, err
			}
			rest := parseSMI(said.text, s.fields, s.seen)
			table.driver, table.devices = rest.driver, rest.devices
		}
	}
	if len(table.devices) == 0 && len(table.lost) == 0 {
		if err := said.absent(); err != nil {
			return readings{}, err
		}
		if said.code != 0 && said.code != smiNotFound {
			return readings{}, said.failed()
		}
		if said.code == 0 && strings.TrimSpace(said.text) != "" && !strings.Contains(said.text, "No devices were found") {
			return readings{}, fmt.Errorf("nvidia-smi: not what was asked for: %s", said.brief())
		}
	}
	for _, d := range table.devices {
		if d.UUID != "" && d.PCIBusID != "" {
			if s.seen == nil {
				s.seen = map[string]smiSeen{}
			}
			s.seen[smiBus(d.PCIBusID)] = smiSeen{d.UUID, d.Index}
		}
	}
	return readings{Driver: table.driver, From: s.path, Devices: table.all(s.seen)}, nil
}

func (s *smi) queryProcesses(ctx context.Context, devices []Device) error {
	said, err := s.run(ctx, "--query-compute-apps=gpu_uuid,pid,used_gpu_memory,process_name", "--format=csv,noheader,nounits")
	if err != nil {
		return err
	}
	if said.code != 0 {
		return said.failed()
	}
	parseSMIProcesses(said.text, devices)
	return nil
}

// smiSaid is what the command came to.
type smiSaid struct {
	text string // its standard output
	errs string // the beginning of its standard error
	code int    // its exit code
}

// Exit codes of nvidia-smi, by its manual page.
const (
	smiNotFound  = 6  // no such GPU, or no GPU at all
	smiNoDriver  = 9  // the driver is not loaded
	smiNoLibrary = 12 // NVML is not there
)

// absent says, as an *absentError, that there is nothing to ask.
func (s smiSaid) absent() error {
	if s.code == smiNoDriver || s.code == smiNoLibrary {
		return &absentError{tried: []string{s.failed().Error()}}
	}
	return nil
}

func (s smiSaid) failed() error {
	return fmt.Errorf("nvidia-smi: exit code %d: %s", s.code, s.brief())
}

// brief is the beginning of what it said, on one line.
func (s smiSaid) brief() string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(s.text[:min(len(s.text), 2*saidSize)]+" "+s.errs, "?")), " ")
	if len(text) > saidSize {
		text = strings.ToValidUTF8(text[:saidSize], "") + "..."
	}
	return cmp.Or(text, "it says nothing")
}

// run starts the command and waits for its end. The error says that it could not be started, did not end in time, or said
// too much; that it failed is in what it said.
func (s *smi) run(ctx context.Context, args ...string) (smiSaid, error) {
	cmd := exec.CommandContext(ctx, s.path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = reapTime // for what it started and left behind with its output open
	var out, errs bounded
	out.limit, errs.limit, errs.cut = maxSMI, saidSize, true
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	said := smiSaid{text: out.text.String(), errs: errs.text.String(), code: cmd.ProcessState.ExitCode()}
	_, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return said, ctx.Err()
	case out.full:
		return said, fmt.Errorf("nvidia-smi: more than %d KiB of output", maxSMI>>10)
	case err != nil && (!exited || said.code < 0):
		return said, fmt.Errorf("nvidia-smi: %w: %s", err, said.brief())
	}
	return said, nil
}

// bounded keeps what is written to it up to a limit. Beyond that it refuses to take more or, if cut, throws it away.
type bounded struct {
	text  bytes.Buffer // not embedded: its ReadFrom knows no limit
	limit int
	cut   bool
	full  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - b.text.Len()
	if len(p) <= room {
		return b.text.Write(p)
	}
	b.full = true
	b.text.Write(p[:room])
	if !b.cut {
		return room, errors.New("too much output")
	}
	return len(p), nil
}

// smiListed matches what --help-query-gpu calls a field: "name" or "other_name".
var smiListed = regexp.MustCompile(`^"([A-Za-z0-9_.]+)"(?: or "([A-Za-z0-9_.]+)")*\s*$`)

// smiQuoted matches each of the names.
var smiQuoted = regexp.MustCompile(`"([A-Za-z0-9_.]+)"`)

// smiKnown are the fields that a text of --help-query-gpu lists.
func smiKnown(help string) map[string]bool {
	known := map[string]bool{}
	for line := range strings.Lines(help) {
		if !smiListed.MatchString(strings.TrimSpace(line)) {
			continue
		}
		for _, name := range smiQuoted.FindAllStringSubmatch(line, -1) {
			known[name[1]] = true
		}
	}
	return known
}
