package route_test

import (
	"fmt"
	"math/rand"
	"reflect"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/online"
	"portico/internal/route"
)

func endpoint(name string, traffic online.Traffic, deployments ...string) route.Endpoint {
	e := route.Endpoint{Name: name, UID: "uid-" + name, Traffic: traffic}
	for _, d := range deployments {
		e.Deployments = append(e.Deployments, route.Deployment{Name: d, UID: "uid-" + d})
	}
	return e
}

func TestMatch(t *testing.T) {
	table := route.Build(7, []route.Endpoint{endpoint("Zebra", nil), endpoint("my-endpoint", nil), endpoint("ZEBRA", nil, "late")})
	if table.Revision() != 7 || len(table.Endpoints()) != 2 {
		t.Fatalf("revision %d, %d endpoints", table.Revision(), len(table.Endpoints()))
	}
	for name, want := range map[string]string{
		"my-endpoint": "my-endpoint", "MY-Endpoint": "my-endpoint", "zebra": "Zebra", "": "", "my-endpoint2": "",
		"my-endpoin": "", strings.Repeat("x", 32): "", strings.Repeat("x", 33): "", "my\xc5endpoint": "",
	} {
		got := ""
		if e := table.Match(name); e != nil {
			got = e.Name
		}
		if got != want {
			t.Errorf("Match(%q) = %q, want %q", name, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { table.Match("MY-ENDPOINT") }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

func TestPick(t *testing.T) {
	for name, c := range map[string]struct {
		traffic online.Traffic
		pinned  string
		random  uint32
		want    string
		miss    route.Miss
	}{
		"first value":           {online.Traffic{"blue": 90, "green": 10}, "", 0, "blue", route.Hit},
		"last value":            {online.Traffic{"blue": 90, "green": 10}, "", 1<<32 - 1, "green", route.Hit},
		"last before the bound": {online.Traffic{"blue": 50, "green": 50}, "", 1<<31 - 1, "blue", route.Hit},
		"first after the bound": {online.Traffic{"blue": 50, "green": 50}, "", 1 << 31, "green", route.Hit},
		"zero is never chosen":  {online.Traffic{"blue": 0, "green": 100}, "", 0, "green", route.Hit},
		"negative is zero":      {online.Traffic{"blue": -5, "green": 100}, "", 0, "green", route.Hit},
		"names in other case":   {online.Traffic{"BLUE": 100}, "", 5, "blue", route.Hit},
		"pinned at zero":        {online.Traffic{"green": 100}, "Blue", 5, "blue", route.Hit},
		"pinned without any":    {nil, "blue", 5, "blue", route.Hit},
		"no traffic":            {nil, "", 5, "", route.NoTraffic},
		"traffic to nobody":     {online.Traffic{"red": 100}, "", 5, "", route.NoTraffic},
		"pinned to nobody":      {online.Traffic{"blue": 100}, "red", 5, "", route.UnknownDeployment},
	} {
		t.Run(name, func(t *testing.T) {
			e := route.Build(1, []route.Endpoint{endpoint("my-endpoint", c.traffic, "green", "blue")}).Match("my-endpoint")
			d, miss := e.Pick(c.pinned, c.random)
			got := ""
			if d != nil {
				got = d.Name
			}
			if got != c.want || miss != c.miss {
				t.Errorf("got %q, %s; want %q, %s", got, miss, c.want, c.miss)
			}
		})
	}
}

func TestShadow(t *testing.T) {
	const one = 1 << 32
	for name, c := range map[string]struct {
		traffic, mirror online.Traffic
		random          uint64
		want            string
	}{
		"first value":              {online.Traffic{"blue": 100}, online.Traffic{"green": 10}, 0, "green"},
		"last value below":         {online.Traffic{"blue": 100}, online.Traffic{"green": 50}, one/2 - 1, "green"},
		"first value above":        {online.Traffic{"blue": 100}, online.Traffic{"green": 50}, one / 2, ""},
		"never more than half":     {online.Traffic{"blue": 100}, online.Traffic{"green": 100}, one / 2, ""},
		"names in other case":      {online.Traffic{"blue": 100}, online.Traffic{"GREEN": 10}, 0, "green"},
		"never a live one":         {online.Traffic{"Blue": 90, "green": 10}, online.Traffic{"Green": 10}, 0, ""},
		"nobody":                   {online.Traffic{"blue": 100}, online.Traffic{"red": 10}, 0, ""},
		"zero":                     {online.Traffic{"blue": 100}, online.Traffic{"green": 0}, 0, ""},
		"none":                     {online.Traffic{"blue": 100}, nil, 0, ""},
		"one per cent, last below": {online.Traffic{"blue": 100}, online.Traffic{"green": 1}, one/100 - 1, "green"},
		"one per cent, above":      {online.Traffic{"blue": 100}, online.Traffic{"green": 1}, one/100 + 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := endpoint("my-endpoint", c.traffic, "green", "blue")
			in.Mirror = c.mirror
			d := route.Build(1, []route.Endpoint{in}).Match("my-endpoint").Shadow(uint32(c.random))
			got := ""
			if d != nil {
				got = d.Name
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestShadowIsNeverLive: whatever is asked, nobody gets a request twice.
func TestShadowIsNeverLive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shares := rapid.MapOf(rapid.SampledFrom([]string{"blue", "Blue", "green", "red"}), rapid.IntRange(-10, 100))
		in := endpoint("my-endpoint", shares.Draw(t, "traffic"), "blue", "green", "red")
		in.Mirror = shares.Draw(t, "mirror")
		e := route.Build(1, []route.Endpoint{in}).Match("my-endpoint")
		random := rapid.Uint32()
		shadow := e.Shadow(random.Draw(t, "shadow"))
		live, miss := e.Pick("", random.Draw(t, "live"))
		if miss == route.Hit && shadow == live {
			t.Fatalf("%s is live and a shadow", live.Name)
		}
	})
}

// TestWeightsAreExact finds the bounds between deployments over all 2^32 values and compares the sizes with the
// shares.
func TestWeightsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		traffic := online.Traffic{}
		var names []string
		total := 0
		for i := range rapid.IntRange(1, 20).Draw(t, "deployments") {
			name := fmt.Sprintf("d%02d", i)
			names = append(names, name)
			traffic[name] = rapid.IntRange(0, 100).Draw(t, name)
			total += traffic[name]
		}
		e := route.Build(1, []route.Endpoint{endpoint("my-endpoint", traffic, names...)}).Match("my-endpoint")
		if total == 0 {
			if _, miss := e.Pick("", 0); miss != route.NoTraffic {
				t.Fatalf("got %s", miss)
			}
			return
		}
		before := uint64(0)
		for _, name := range names {
			// The values below `end` go to this deployment or an earlier one: names are in order.
			end := uint64(sort.Search(1<<32, func(random int) bool {
				d, _ := e.Pick("", uint32(random))
				return d.Name > name
			}))
			exact := float64(traffic[name]) / float64(total) * (1 << 32)
			if got := float64(end - before); got < exact-1 || got > exact+1 {
				t.Fatalf("%s with %d of %d gets %v values, want %v", name, traffic[name], total, got, exact)
			}
			before = end
		}
		if before != 1<<32 {
			t.Fatalf("%d values go nowhere", 1<<32-before)
		}
	})
}

// TestBuildIsDeterministic: the order of the input is of no consequence, and later changes to it have no effect.
func TestBuildIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{3,8}`), 1, 8, rapid.ID[string]).Draw(t, "names")
		var in []route.Endpoint
		for _, n := range names {
			e := endpoint(n, online.Traffic{"blue": 30, "green": 70}, "green", "blue", "red")
			e.Deployments[0].Instances = []route.Instance{{ID: "b"}, {ID: "a"}}
			e.Keys = [][32]byte{{1}, {2}}
			in = append(in, e)
		}
		first := route.Build(1, in)
		r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		for i := range in {
			d := in[i].Deployments
			d = append([]route.Deployment(nil), d...)
			r.Shuffle(len(d), func(i, j int) { d[i], d[j] = d[j], d[i] })
			in[i].Deployments = d
		}
		second := route.Build(1, in)
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("tables differ:\n%+v\n%+v", first, second)
		}
		for i := range in {
			in[i].Traffic["blue"] = 100
			in[i].Keys[0] = [32]byte{9}
			for j := range in[i].Deployments {
				if is := in[i].Deployments[j].Instances; len(is) > 0 {
					is[0].ID = "changed"
				}
			}
		}
		third := first.Match(names[0])
		if third.Traffic["blue"] != 30 || third.Keys[0] != [32]byte{1} || third.Deployments[1].Instances[0].ID != "a" {
			t.Fatal("the table shares memory with what it was built from")
		}
	})
}

func BenchmarkMatchAndPick(b *testing.B) {
	e := endpoint("my-endpoint", online.Traffic{"blue": 90, "green": 9, "red": 1}, "blue", "green", "red")
	table := route.Build(1, []route.Endpoint{e})
	b.ReportAllocs()
	for i := range b.N {
		if _, miss := table.Match("My-Endpoint").Pick("", uint32(i)*2654435761); miss != route.Hit {
			b.Fatal(miss)
		}
	}
}
