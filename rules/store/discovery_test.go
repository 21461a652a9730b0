package store

import (
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

// TestDeparture sends a list without a replica that was on the one before: its series end, and no others.
func TestDeparture(t *testing.T) {
	s := open(t, t.TempDir())
	now := time.Now()
	for _, series := range []string{
		`queue{job="models",instance="a:1"}`, `up{job="models",instance="a:1"}`,
		`queue{job="models",instance="b:1"}`, `queue{job="other",instance="a:1"}`,
	} {
		put(t, s, series, now.Add(-time.Second), 1)
	}
	config := &replicaConfig{job: Job{Name: "models", Target: "digits"}, scraper: s.scraper}
	d, err := config.NewDiscoverer(discovery.DiscovererOptions{Logger: s.logger})
	if err != nil {
		t.Fatal(err)
	}
	defer s.scraper.followers.Done()
	f := d.(*follower)
	up := make(chan []*targetgroup.Group, 2)
	for _, addresses := range [][]string{{"a:1", "b:1"}, {"b:1"}} {
		if err := f.send(t.Context(), up, addresses); err != nil {
			t.Fatal(err)
		}
	}
	s.scraper.departures.Wait()
	want := "{__name__=\"queue\", instance=\"b:1\", job=\"models\"} 1\n{__name__=\"queue\", instance=\"a:1\", job=\"other\"} 1"
	if got := ask(t, s, `sort({job!=""})`, time.Now()); got != want && got != "{__name__=\"queue\", instance=\"a:1\", job=\"other\"} 1\n{__name__=\"queue\", instance=\"b:1\", job=\"models\"} 1" {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if first, second := <-up, <-up; len(first[0].Targets) != 2 || len(second[0].Targets) != 1 || second[0].Labels["target"] != "digits" {
		t.Errorf("sent %v, then %v", first, second)
	}
}

// TestReplicaConfigs has Prometheus see a change where there is one, and none where there is none.
func TestReplicaConfigs(t *testing.T) {
	s := open(t, t.TempDir())
	one, two := &list{}, &list{}
	job := Job{Name: "models", Target: "digits", Endpoints: one, Labels: map[string]string{"zone": "z"}}
	config := func(j Job) *replicaConfig {
		t.Helper()
		apply(t, s, Scrape{Jobs: []Job{j}})
		return s.scraper.applied.replicas[j.Name]
	}
	first := config(job)
	again := job
	again.Interval, again.Labels = time.Minute, map[string]string{"zone": "z"}
	if config(again) != first {
		t.Error("the same list is followed anew")
	}
	for name, change := range map[string]func(*Job){
		"endpoints": func(j *Job) { j.Endpoints = two },
		"target":    func(j *Job) { j.Target = "letters" },
		"labels":    func(j *Job) { j.Labels = nil },
	} {
		changed := job
		change(&changed)
		if c := config(changed); reflect.DeepEqual(first, c) {
			t.Errorf("%s: the change is not seen", name)
		}
	}
}
