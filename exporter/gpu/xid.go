package gpu

import (
	"slices"
	"time"
)

// The classes of XIDs, the driver's numbers for errors of a GPU, by what is to be done about them.
const (
	classApp      = "app"      // restart or mend the application: most often it is its fault, and the GPU is well
	classHardware = "hardware" // reset or replace the GPU, or look at its power, memory or slot
	classNVLink   = "nvlink"   // look at the links and at what is at their other end
	classInfo     = "info"     // nothing; also of numbers that are not known here
)

// xidClass returns the class of an XID.
//
// The classes follow NVIDIA's XID catalogue, https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html
// (driver R575 and later), column "Resolution Bucket (Immediate Action)": RESTART_APP, and what its trigger conditions
// lay at the door of applications, is app; RESET_GPU, RESTART_BM, CHECK_MECHANICALS, and what concerns the GPU's memory
// is hardware; whatever bears NVLink in its name is nvlink; IGNORE and the rest is info. Two are judged by their trigger
// conditions against their immediate action: 92 (so many corrected errors that memory is about to fail; IGNORE, then
// CONTACT_SUPPORT) and 94 (an uncorrected error that cost one application; RESTART_APP, and a reset when convenient) are
// the hardware's.
func xidClass(number uint64) string {
	switch number {
	case 8, 13, 25, 31, 32, 43, 45, 60, 66, 67, 69, 80, 137, 141, 151, // the graphics engine, memory accesses, push buffers
		39, 40, 41, 70, 71, 72, 75, 76, 77, 85, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135, // copy engines
		68, 82, 83, 84, 86, 88, 89, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 139, 142: // video, JPEG, optical flow
		return classApp
	case 46, // stopped processing
		48, 92, 94, 95, 140, 171, 172, // ECC: uncorrected, too many corrected, contained, uncontained, escaped, of DRAM, of SRAM
		54,                // auxiliary power is not connected
		62, 119, 120, 169, // a micro-controller halted, the GSP does not answer, the GSP failed, the SEC2 halted
		64, 156, 157, 168, // memory that could not be remapped, or was retired
		79, 167, // fallen off the bus, PCIe timeout
		109, 110, 143, 158: // context switch timeout, security fault, initialisation, fatal timeout
		return classHardware
	case 74, 108, 136, 144, 145, 146, 147, 148, 149, 150, 155, 166, 170:
		return classNVLink
	}
	return classInfo
}

// commonXIDs are counted from zero, so that the first of them is an increase; others appear when they happen.
var commonXIDs = [...]uint64{48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120}

// maxXIDs bounds the numbers that are told apart of one GPU. There are less than 200.
const maxXIDs = 256

// xidCounts are the errors of one GPU since it was first seen, by number.
type xidCounts []XID

func newXIDCounts() xidCounts {
	counts := make(xidCounts, 0, len(commonXIDs))
	for _, number := range commonXIDs {
		counts = append(counts, XID{Number: number})
	}
	return counts
}

// add counts an error.
func (c *xidCounts) add(number uint64, at time.Time) {
	i, found := slices.BinarySearchFunc(*c, number, func(x XID, n uint64) int {
		switch {
		case x.Number < n:
			return -1
		case x.Number > n:
			return 1
		}
		return 0
	})
	if !found {
		if len(*c) == maxXIDs {
			return
		}
		*c = slices.Insert(*c, i, XID{Number: number})
	}
	(*c)[i].Count++
	(*c)[i].Last = at
}
