package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// jumpBack is how many seconds the CPU time of a mode may fall behind before it is believed to have started anew (a
// checkpoint restored, a machine moved). The kernel lets idle and iowait step back by less. node_exporter has the same 3 s.
const jumpBack = 3.0

func (c *Collector) readCPU(r *reading) error {
	stat, err := c.proc.Stat()
	if err != nil {
		return err
	}
	t := stat.CPUTotal // guest time is in user and nice already
	now := map[string]float64{
		"user": t.User, "nice": t.Nice, "system": t.System, "idle": t.Idle,
		"iowait": t.Iowait, "irq": t.IRQ, "softirq": t.SoftIRQ, "steal": t.Steal,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for mode, seconds := range now {
		if last := c.cpu[mode]; seconds < last && last-seconds < jumpBack {
			seconds = last
		}
		c.cpu[mode] = seconds
		r.counter(cpuSeconds, seconds, mode)
	}
	r.gauge(cpus, float64(len(stat.CPU)))
	if stat.BootTime > 0 { // a sandbox may say 0
		r.gauge(bootTime, float64(stat.BootTime))
	}
	return nil
}

func (c *Collector) readMemory(r *reading) error {
	m, err := c.proc.Meminfo()
	if err != nil {
		return err
	}
	if m.MemTotalBytes == nil {
		return errors.New("meminfo has no MemTotal")
	}
	r.gauge(memoryTotal, float64(*m.MemTotalBytes))
	if m.MemAvailableBytes != nil { // since Linux 3.14
		r.gauge(memoryAvailable, float64(*m.MemAvailableBytes))
		r.gauge(memoryUsed, float64(*m.MemTotalBytes)-float64(*m.MemAvailableBytes))
	}
	if m.SwapTotalBytes != nil && m.SwapFreeBytes != nil {
		r.gauge(swapTotal, float64(*m.SwapTotalBytes))
		r.gauge(swapUsed, float64(*m.SwapTotalBytes)-float64(*m.SwapFreeBytes))
	}
	return nil
}

func (c *Collector) readLoad(r *reading) error {
	l, err := c.proc.LoadAvg()
	if err != nil {
		return err
	}
	r.gauge(load1, l.Load1)
	r.gauge(load5, l.Load5)
	r.gauge(load15, l.Load15)
	return nil
}

func (c *Collector) readNetwork(r *reading) error {
	devices, err := c.proc.NetDev()
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for name, d := range devices {
		if name == "lo" {
			continue
		}
		r.counter(networkReceived, float64(d.RxBytes), name)
		r.counter(networkTransmitted, float64(d.TxBytes), name)
		r.counter(networkReceiveErrors, float64(d.RxErrors), name)
		r.counter(networkTransmitErrors, float64(d.TxErrors), name)
		r.counter(networkReceiveDrops, float64(d.RxDropped), name)
		r.counter(networkTransmitDrops, float64(d.TxDropped), name)
	}
	return nil
}

// sectorSize is the unit of the kernel's disk statistics in bytes, whatever the disk's own sectors are.
const sectorSize = 512

// readDisks reads the disks that have hardware of their own. Partitions, loop devices, RAID and device mapper lie on top
// of those, and would count the same bytes again.
func (c *Collector) readDisks(r *reading) error {
	if c.disks == nil {
		return nil
	}
	names, err := c.disks.SysBlockDevices()
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		if !c.whole(name) {
			continue
		}
		s, _, err := c.disks.SysBlockDeviceStat(name)
		if missing(err) { // unplugged since it was listed
			continue
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		r.counter(diskRead, float64(s.ReadSectors)*sectorSize, name)
		r.counter(diskWritten, float64(s.WriteSectors)*sectorSize, name)
	}
	return errors.Join(faults...)
}

// whole reports whether a block device has hardware of its own and is not one of several paths to it.
func (c *Collector) whole(name string) bool {
	dir := filepath.Join(c.sysPath, "block", name)
	if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
		return false
	}
	hidden, err := os.ReadFile(filepath.Join(dir, "hidden")) // 1 for a path of a multipath NVMe disk; since Linux 4.15
	return err != nil || !bytes.Equal(bytes.TrimSpace(hidden), []byte("1"))
}

func (c *Collector) readPressure(r *reading) error {
	var faults []error
	for _, resource := range []string{"cpu", "io", "memory"} {
		p, err := c.proc.PSIStatsForResource(resource)
		if missing(err) {
			continue
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if p.Some != nil {
			r.counter(pressureWaiting, float64(p.Some.Total)/1e6, resource)
		}
	}
	return errors.Join(faults...)
}
