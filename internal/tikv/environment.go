package tikv

import (
	"fmt"
	"strings"
)

// CheckEnvironment tells which variables of an environment keep a TiKV from asking
// the broker, if it starts in it. All are doubts: TiKV may have another one.
func CheckEnvironment(getenv func(string) string) []Problem {
	var problems []Problem
	for _, name := range []string{"AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"} {
		if v := getenv(name); v != "" && !strings.EqualFold(v, "false") {
			problems = append(problems, Problem{
				Severity: Doubtful, Key: "$" + name, Found: fmt.Sprintf("%.16q in this environment", v),
				Want: "it unset in TiKV's: the SDK takes no endpoint together with it, and TiKV tells \"dispatch failure\" after 5 minutes",
			})
		}
	}
	return problems
}
