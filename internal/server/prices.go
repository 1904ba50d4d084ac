package server

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"portico/internal/cost"
	"portico/internal/online"
)

// pricesKey is the price list in the configuration file. It is no flag: it is a list.
const pricesKey = "prices"

// priceList is the price list as an operator writes it (docs/cost.md).
type priceList struct {
	Currency string             `yaml:"currency"`
	PerHour  map[string]float64 `yaml:"per_hour"` // by instance type
}

var currencyRule = regexp.MustCompile(`^[A-Z]{3}$`)

// prices checks a list against the instance types that exist: a price that nothing uses is a misspelt name.
func (l priceList) prices(types []online.InstanceType) (cost.Prices, error) {
	out := cost.Prices{Currency: l.Currency, PerHour: make(map[string]float64, len(l.PerHour))}
	if out.Currency == "" {
		out.Currency = cost.DefaultCurrency
	}
	if !currencyRule.MatchString(out.Currency) {
		return cost.Prices{}, fmt.Errorf("prices.currency: %.20q is not a currency of three capital letters, such as USD",
			out.Currency)
	}
	for name, price := range l.PerHour {
		if !slices.ContainsFunc(types, func(t online.InstanceType) bool { return strings.EqualFold(t.Name, name) }) {
			return cost.Prices{}, fmt.Errorf("prices.per_hour: there is no instance type %q; portico config show lists them", name)
		}
		if price < 0 || math.IsNaN(price) || math.IsInf(price, 0) {
			return cost.Prices{}, fmt.Errorf("prices.per_hour.%s: %v is not a price", name, price)
		}
		key := strings.ToLower(name)
		if _, twice := out.PerHour[key]; twice {
			return cost.Prices{}, fmt.Errorf("prices.per_hour: %s has two prices", name)
		}
		out.PerHour[key] = price
	}
	return out, nil
}

// priceValue says in one line which prices are in force.
func priceValue(p cost.Prices, types int, path string) Value {
	if len(p.PerHour) == 0 {
		return Value{Key: pricesKey, Value: "none: every cost is counted as 0 (docs/cost.md)", Source: "default"}
	}
	return Value{Key: pricesKey, Source: "file " + path,
		Value: fmt.Sprintf("%s, for %d of %d instance types", p.Currency, len(p.PerHour), types)}
}
