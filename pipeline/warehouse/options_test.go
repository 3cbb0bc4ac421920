package warehouse_test

import (
	"strings"
	"testing"

	"github.com/godwit-mta/godwit/pipeline/warehouse"
)

func TestOptionsAreChecked(t *testing.T) {
	o := warehouse.DefaultOptions()
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
	if err := (warehouse.Options{}).Validate(); err != nil {
		t.Errorf("no warehouse: %v", err)
	}
	for want, change := range map[string]func(*warehouse.Options){
		"engine: ":     func(o *warehouse.Options) { o.Engine = "oracle" },
		"batch: ":      func(o *warehouse.Options) { o.Batch = 0 },
		"window: ":     func(o *warehouse.Options) { o.Window = 0 },
		"yield: ":      func(o *warehouse.Options) { o.Yield = -1 },
		"query_time: ": func(o *warehouse.Options) { o.QueryTime = -1 },
		"memory: ":     func(o *warehouse.Options) { o.Memory = 1 },
		"threads: ":    func(o *warehouse.Options) { o.Threads = 0 },
		"unsorted: ":   func(o *warehouse.Options) { o.Tail = 5 },
	} {
		o := warehouse.DefaultOptions()
		change(&o)
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
