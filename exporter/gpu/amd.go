package gpu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// amd reads AMD's GPUs by the files that their driver has in sysfs. A file that is not there, or that the driver refuses
// while the GPU sleeps, is a value that it does not have; one that cannot be read is the GPU's error.
type amd struct {
	sys string // where sysfs is mounted; empty for /sys
}

// amdCard matches the cards among the connectors and render nodes of /sys/class/drm.
var amdCard = regexp.MustCompile(`^card(\d+)$`)

// amdVendor is AMD's number among those who make PCI devices.
const amdVendor = "0x1002"

func (a amd) read(ctx context.Context, _ tiers) (readings, error) {
	sys := cmp.Or(a.sys, "/sys")
	drm := filepath.Join(sys, "class", "drm")
	entries, err := os.ReadDir(drm)
	if errors.Is(err, fs.ErrNotExist) {
		return readings{}, &absentError{tried: []string{drm + ": there is none"}}
	}
	if err != nil {
		return readings{}, fmt.Errorf("amdgpu: %w", err)
	}
	type card struct {
		number int
		dir    string
		slot   string // on the PCI bus
	}
	var cards []card
	for _, e := range entries {
		m := amdCard.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		dir := filepath.Join(drm, e.Name(), "device")
		files := amdFiles{dir: dir}
		if files.text("vendor") != amdVendor {
			continue
		}
		properties := files.text("uevent")
		if amdProperty(properties, "DRIVER") != "amdgpu" {
			continue // radeon's, or one that is passed through to a guest
		}
		number, _ := strconv.Atoi(m[1])
		cards = append(cards, card{number, dir, amdProperty(properties, "PCI_SLOT_NAME")})
	}
	if len(cards) == 0 {
		return readings{}, &absentError{tried: []string{drm + ": no GPU of the driver amdgpu"}}
	}
	slices.SortFunc(cards, func(a, b card) int { return cmp.Compare(a.number, b.number) })

	module := amdFiles{dir: filepath.Join(sys, "module", "amdgpu")}
	got := readings{Driver: module.text("version"), From: drm}
	for i, c := range cards {
		if err := ctx.Err(); err != nil {
			return readings{}, err
		}
		got.Devices = append(got.Devices, amdDevice(i, c.dir, c.slot))
	}
	return got, nil
}

// amdProperty is a value of a uevent file.
func amdProperty(uevent, name string) string {
	for line := range strings.Lines(uevent) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return value
		}
	}
	return ""
}

func amdDevice(index int, dir, slot string) Device {
	files := &amdFiles{dir: dir}
	d := Device{
		Index: index, Vendor: "amd", PCIBusID: slot,
		UUID:   cmp.Or(strings.TrimPrefix(files.text("unique_id"), "0x"), slot),
		Name:   cmp.Or(files.text("product_name"), "AMD "+files.text("device")),
		Serial: files.text("serial_number"),
		VBIOS:  files.text("vbios_version"),
	}
	if strings.Trim(d.UUID, "0") == "" { // of one that has none
		d.UUID = slot
	}
	d.Utilization = files.value("gpu_busy_percent", 0.01)
	d.MemoryUtilization = files.value("mem_busy_percent", 0.01)
	total, used := files.count("mem_info_vram_total"), files.count("mem_info_vram_used")
	if total != nil && used != nil {
		d.Memory = &Memory{Total: *total, Used: *used, Free: *total - min(*used, *total)}
	}
	files.link(&d)
	files.ecc(&d)
	files.levels(&d, "graphics", "pp_dpm_sclk")
	files.levels(&d, "mem", "pp_dpm_mclk")
	if dirs, err := filepath.Glob(filepath.Join(dir, "hwmon", "hwmon*")); err == nil && len(dirs) > 0 {
		sensors := &amdFiles{dir: dirs[0]}
		sensors.sensors(&d)
		files.err = cmp.Or(files.err, sensors.err)
	}
	switch {
	case files.err != nil:
		d.Error = files.err.Error()
	case d.UUID == "":
		d.Error = "it has neither unique_id nor a place on the PCI bus"
	}
	return d
}

// amdFiles reads files of a directory, and keeps the first error that is not for want of a value.
type amdFiles struct {
	dir string
	err error
}

// maxAMDFile bounds a file in bytes: those that are read are shorter than a page.
const maxAMDFile = 16 << 10

// text is what a file says; empty where there is no such file or no value in it now.
func (f *amdFiles) text(name string) string {
	text, err := f.readFile(name)
	if err == nil || f.err != nil {
		return text
	}
	for _, absent := range []error{
		fs.ErrNotExist, fs.ErrPermission, syscall.EOPNOTSUPP, syscall.EINVAL, syscall.EBUSY, syscall.EAGAIN, syscall.ENODATA,
	} {
		if errors.Is(err, absent) {
			return ""
		}
	}
	f.err = err
	return ""
}

func (f *amdFiles) readFile(name string) (string, error) {
	file, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxAMDFile))
	return strings.ToValidUTF8(strings.TrimSpace(string(text)), "?"), err
}

// value is a file's number, scaled to base units; nil where there is none.
func (f *amdFiles) value(name string, by float64) *float64 { return smiValue(f.text(name)).scaled(by) }

func (f *amdFiles) count(name string) *uint64 {
	n, ok := smiValue(f.text(name)).count()
	if !ok {
		return nil
	}
	return &n
}

func (f *amdFiles) put(values *map[string]float64, key, name string, by float64) {
	smiValue(f.text(name)).put(values, key, by)
}

// link reads the link to the host.
func (f *amdFiles) link(d *Device) {
	var p PCIe
	for _, state := range []string{"current", "max"} {
		// "16.0 GT/s PCIe": the generations from 1 to 6.
		speed, _, _ := strings.Cut(f.text(state+"_link_speed"), " ")
		if i := slices.Index([]string{"2.5", "5.0", "8.0", "16.0", "32.0", "64.0"}, speed); i >= 0 {
			if p.Generation == nil {
				p.Generation = map[string]int{}
			}
			p.Generation[state] = i + 1
		}
		if lanes := f.count(state + "_link_width"); lanes != nil && *lanes > 0 && *lanes <= 64 {
			if p.Width == nil {
				p.Width = map[string]int{}
			}
			p.Width[state] = int(*lanes)
		}
	}
	p.Replays = f.count("pcie_replay_count")
	if p.Generation != nil || p.Width != nil || p.Replays != nil {
		d.PCIe = &p
	}
}

// ecc sums up the errors of all blocks, which the driver counts since it was loaded.
func (f *amdFiles) ecc(d *Device) {
	paths, err := filepath.Glob(filepath.Join(f.dir, "ras", "*_err_count"))
	if err != nil {
		return
	}
	sums := map[string]uint64{}
	for _, path := range paths {
		for line := range strings.Lines(f.text(filepath.Join("ras", filepath.Base(path)))) {
			kind, text, _ := strings.Cut(strings.TrimSpace(line), ":")
			if n, ok := smiValue(strings.TrimSpace(text)).count(); ok {
				sums[kind] += n
			}
		}
	}
	for _, kind := range []struct{ short, name string }{{"ce", "corrected"}, {"ue", "uncorrected"}} {
		if n, ok := sums[kind.short]; ok {
			d.ECC = append(d.ECC, ECCErrors{Type: kind.name, Scope: "volatile", Count: n})
		}
	}
}

// amdLevel matches a level of a clock; the present one has a star.
var amdLevel = regexp.MustCompile(`(?i)^[0-9S]+: *([0-9]+)mhz *(\*?)`)

// levels reads the clock's levels, of which the driver says which one it is at.
func (f *amdFiles) levels(d *Device, domain, name string) {
	for line := range strings.Lines(f.text(name)) {
		m := amdLevel.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		megahertz := smiValue(m[1])
		if m[2] != "" {
			megahertz.put(&d.Clock, domain, 1e6)
		}
		if v := megahertz.scaled(1e6); v != nil && *v > d.ClockMax[domain] {
			megahertz.put(&d.ClockMax, domain, 1e6)
		}
	}
}

// sensors reads the directory of hwmon.
func (f *amdFiles) sensors(d *Device) {
	if d.Power = f.value("power1_average", 1e-6); d.Power == nil {
		d.Power = f.value("power1_input", 1e-6)
	}
	for kind, name := range map[string]string{
		"enforced": "power1_cap", "default": "power1_cap_default", "min": "power1_cap_min", "max": "power1_cap_max",
	} {
		f.put(&d.PowerLimit, kind, name, 1e-6)
	}
	temps := map[string]string{} // the beginning of the names of a sensor's files, by its label
	for i := 1; i <= 8; i++ {
		temp := fmt.Sprintf("temp%d_", i)
		if label := f.text(temp + "label"); label != "" || i == 1 && f.value(temp+"input", 1e-3) != nil {
			temps[label] = temp
		}
	}
	chip := cmp.Or(temps["edge"], temps[""], temps["junction"]) // MI300 has no edge
	for sensor, temp := range map[string]string{"gpu": chip, "junction": temps["junction"], "memory": temps["mem"]} {
		if temp != "" {
			f.put(&d.Temperature, sensor, temp+"input", 1e-3)
		}
	}
	if chip != "" {
		f.put(&d.Threshold, "slowdown", chip+"crit", 1e-3)
		f.put(&d.Threshold, "shutdown", chip+"emergency", 1e-3)
	}
	for i := 1; i <= 2; i++ {
		domain, ok := map[string]string{"sclk": "graphics", "mclk": "mem"}[f.text(fmt.Sprintf("freq%d_label", i))]
		if ok {
			f.put(&d.Clock, domain, fmt.Sprintf("freq%d_input", i), 1) // finer than the level
		}
	}
	if pwm, most := f.value("pwm1", 1), f.value("pwm1_max", 1); pwm != nil && most != nil && *most > 0 {
		d.FanSpeed = []float64{math.Min(*pwm / *most, 1)}
	}
	if energy := f.value("energy1_input", 1e-6); energy != nil {
		d.Energy = energy
	}
}
