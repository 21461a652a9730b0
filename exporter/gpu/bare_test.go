package gpu

// bareDevice is a GPU that supports nothing. A test embeds it and adds what it is about.
type bareDevice struct{}

func (bareDevice) UUID() (string, error)                    { return "", errUnsupported }
func (bareDevice) Name() (string, error)                    { return "", errUnsupported }
func (bareDevice) PCIBusID() (string, error)                { return "", errUnsupported }
func (bareDevice) Serial() (string, error)                  { return "", errUnsupported }
func (bareDevice) VBIOS() (string, error)                   { return "", errUnsupported }
func (bareDevice) Architecture() (string, error)            { return "", errUnsupported }
func (bareDevice) MIGMode() (bool, error)                   { return false, errUnsupported }
func (bareDevice) Instances() ([]Instance, error)           { return nil, errUnsupported }
func (bareDevice) Utilization() (_, _ float64, _ error)     { return 0, 0, errUnsupported }
func (bareDevice) EncoderUtilization() (float64, error)     { return 0, errUnsupported }
func (bareDevice) DecoderUtilization() (float64, error)     { return 0, errUnsupported }
func (bareDevice) Memory() (Memory, error)                  { return Memory{}, errUnsupported }
func (bareDevice) Power() (float64, error)                  { return 0, errUnsupported }
func (bareDevice) PowerLimit(string) (float64, error)       { return 0, errUnsupported }
func (bareDevice) Energy() (float64, error)                 { return 0, errUnsupported }
func (bareDevice) Temperature() (float64, error)            { return 0, errUnsupported }
func (bareDevice) Threshold(string) (float64, error)        { return 0, errUnsupported }
func (bareDevice) Clock(string) (float64, error)            { return 0, errUnsupported }
func (bareDevice) ClockMax(string) (float64, error)         { return 0, errUnsupported }
func (bareDevice) PState() (int, error)                     { return 0, errUnsupported }
func (bareDevice) Fans() (int, error)                       { return 0, errUnsupported }
func (bareDevice) FanSpeed(int) (float64, error)            { return 0, errUnsupported }
func (bareDevice) ClockEvents() (map[string]bool, error)    { return nil, errUnsupported }
func (bareDevice) ECC(string, string) (uint64, error)       { return 0, errUnsupported }
func (bareDevice) RemappedRows() (remappedRows, error)      { return remappedRows{}, errUnsupported }
func (bareDevice) RetiredPages(string) (uint64, error)      { return 0, errUnsupported }
func (bareDevice) RetiredPagesPending() (bool, error)       { return false, errUnsupported }
func (bareDevice) PCIeReplays() (uint64, error)             { return 0, errUnsupported }
func (bareDevice) PCIeGeneration(string) (int, error)       { return 0, errUnsupported }
func (bareDevice) PCIeWidth(string) (int, error)            { return 0, errUnsupported }
func (bareDevice) NVLinkUp(int) (bool, error)               { return false, errUnsupported }
func (bareDevice) NVLinkErrors(int, string) (uint64, error) { return 0, errUnsupported }
func (bareDevice) Fields([]field) ([]fieldValue, error)     { return nil, errUnsupported }
func (bareDevice) Processes() ([]Process, error)            { return nil, errUnsupported }

func (bareDevice) Activity() (map[string]float64, *float64, error) { return nil, nil, errUnsupported }
