package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/jmespath-community/go-jmespath"
	"github.com/jmespath-community/go-jmespath/pkg/parsing"
	"go.yaml.in/yaml/v4"
)

// formats are the values of --output, in the order in which help shows them.
var formats = []string{"json", "jsonc", "yaml", "table", "tsv", "none"}

// column is one column of a table: its title and the JMESPath that finds the cell.
type column struct{ title, path string }

// printer writes a command's result to standard output.
type printer struct {
	out    io.Writer
	format string
	query  string
	color  bool // jsonc only
	az     bool // as az prints: nothing for null, keys sorted, and tsv in Python's spelling
}

// check refuses a bad --output or --query before anything is sent.
func (p *printer) check() error {
	if !slices.Contains(formats, p.format) {
		return usagef("--output %q is not one of %s%s", p.format, strings.Join(formats, ", "),
			didYouMean(p.format, formats))
	}
	if p.query != "" {
		if _, err := jmespath.Compile(p.query); err != nil {
			return usagef("--query is not a JMESPath expression: %v", err)
		}
	}
	return nil
}

// print writes v. Keys keep the order of v's type, except after --query, which sorts them. columns are the table's;
// without them, or after --query, the table shows the plain values of each row.
func (p *printer) print(v any, columns []column) error {
	if p.format == "none" {
		return nil
	}
	text, err := marshal(v)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	var hashes [][]string
	if p.query != "" {
		columns = nil
		var plainValue any
		if err := json.Unmarshal(text, &plainValue); err != nil {
			return fmt.Errorf("decode the result: %w", err)
		}
		found, err := jmespath.Search(p.query, plainValue)
		if err != nil {
			return usagef("--query: %v", err)
		}
		if text, err = marshal(found); err != nil {
			return fmt.Errorf("encode the result of --query: %w", err)
		}
		hashes = hashKeys(p.query)
	}
	if p.az {
		if bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
			return nil
		}
		if text, err = sortKeys(text); err != nil {
			return fmt.Errorf("sort the result: %w", err)
		}
	}
	switch p.format {
	case "json", "jsonc":
		return p.json(text)
	case "yaml":
		return writeYAML(p.out, text)
	}
	tree, err := parseOrdered(text)
	if err != nil {
		return fmt.Errorf("decode the result: %w", err)
	}
	orderKeys(tree, hashes)
	if p.format == "tsv" && p.az {
		return writeTSV(p.out, tree, pythonCell)
	}
	if p.format == "tsv" {
		return writeTSV(p.out, tree, oneLine)
	}
	return writeTable(p.out, tree, columns)
}

// sortKeys writes JSON with the keys of every object in order.
func sortKeys(text []byte) ([]byte, error) {
	var v any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return marshal(v)
}

// hashKeys lists the keys of every {name: expression, ...} of a query, as they are written. Rows and columns keep
// that order, so that `read NAME ID <<< $(... --query '{name: name, id: id}' -o tsv)` gets what it names.
func hashKeys(query string) [][]string {
	tree, err := parsing.NewParser().Parse(query)
	if err != nil {
		return nil // the search refuses it
	}
	var found [][]string
	var visit func(parsing.ASTNode)
	visit = func(n parsing.ASTNode) {
		if n.NodeType == parsing.ASTMultiSelectHash {
			var keys []string
			for _, pair := range n.Children {
				if key, ok := pair.Value.(string); ok {
					keys = append(keys, key)
				}
			}
			found = append(found, keys)
		}
		for _, child := range n.Children {
			visit(child)
		}
	}
	visit(tree)
	return found
}

// orderKeys puts the keys of each object that has exactly those of a hash into the hash's order.
func orderKeys(n *yaml.Node, hashes [][]string) {
	for _, child := range n.Content {
		orderKeys(child, hashes)
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	for _, keys := range hashes {
		if len(keys)*2 != len(n.Content) {
			continue
		}
		ordered := make([]*yaml.Node, 0, len(n.Content))
		for _, key := range keys {
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == key {
					ordered = append(ordered, n.Content[i], n.Content[i+1])
				}
			}
		}
		if len(ordered) == len(n.Content) {
			n.Content = ordered
			return
		}
	}
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (p *printer) json(text []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return fmt.Errorf("indent the result: %w", err)
	}
	out := bytes.TrimRight(b.Bytes(), "\n")
	if p.format == "jsonc" && p.color {
		out = colorJSON(out)
	}
	_, err := fmt.Fprintf(p.out, "%s\n", out)
	return err
}

// Colours of jsonc, as terminals number them.
const (
	colorKey    = "\x1b[34;1m"
	colorString = "\x1b[32m"
	colorOther  = "\x1b[36m"
	colorReset  = "\x1b[0m"
)

// colorJSON paints indented JSON, where each line holds at most one key and one scalar.
func colorJSON(text []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		body := bytes.TrimLeft(line, " ")
		b.Write(line[:len(line)-len(body)])
		if end := keyEnd(body); end > 0 {
			b.WriteString(colorKey + string(body[:end]) + colorReset)
			b.WriteString(": ")
			body = body[end+2:]
		}
		value := bytes.TrimRight(body, ",\n")
		switch {
		case len(value) == 0 || bytes.ContainsAny(value[:1], "{}[]"):
			b.Write(value)
		case value[0] == '"':
			b.WriteString(colorString + string(value) + colorReset)
		default:
			b.WriteString(colorOther + string(value) + colorReset)
		}
		b.Write(body[len(value):])
	}
	return b.Bytes()
}

// keyEnd is the length of the quoted key that a line of indented JSON begins with, or 0.
func keyEnd(line []byte) int {
	if len(line) == 0 || line[0] != '"' {
		return 0
	}
	for i := 1; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '"':
			if bytes.HasPrefix(line[i+1:], []byte(": ")) {
				return i + 1
			}
			return 0
		}
	}
	return 0
}

// parseOrdered reads JSON into a YAML tree: JSON is YAML in short form, and unlike a Go map the tree keeps the
// order of keys.
func parseOrdered(text []byte) (*yaml.Node, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return orderedValue(dec)
}

func orderedValue(dec *json.Decoder) (*yaml.Node, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, value string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}, nil
	}
	switch t := tok.(type) {
	case nil:
		return scalar("!!null", "null")
	case bool:
		return scalar("!!bool", fmt.Sprint(t))
	case json.Number:
		if strings.ContainsAny(t.String(), ".eE") {
			return scalar("!!float", t.String())
		}
		return scalar("!!int", t.String())
	case string:
		n := &yaml.Node{}
		n.SetString(t)
		return n, nil
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	if tok == json.Delim('{') {
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
	}
	for dec.More() {
		child, err := orderedValue(dec)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	_, err = dec.Token() // the closing bracket
	return n, err
}

// yamlToJSON writes a YAML tree as JSON with its keys in order.
func yamlToJSON(n *yaml.Node) ([]byte, error) {
	switch n.Kind {
	case yaml.DocumentNode:
		return yamlToJSON(n.Content[0])
	case yaml.AliasNode:
		return yamlToJSON(n.Alias)
	case yaml.MappingNode, yaml.SequenceNode:
		var b bytes.Buffer
		open, end := byte('['), byte(']')
		if n.Kind == yaml.MappingNode {
			open, end = '{', '}'
		}
		b.WriteByte(open)
		for i, c := range n.Content {
			part, err := yamlToJSON(c)
			if n.Kind == yaml.MappingNode && i%2 == 0 {
				part, err = json.Marshal(c.Value)
			}
			if err != nil {
				return nil, err
			}
			switch {
			case i == 0:
			case n.Kind == yaml.MappingNode && i%2 == 1:
				b.WriteByte(':')
			default:
				b.WriteByte(',')
			}
			b.Write(part)
		}
		b.WriteByte(end)
		return b.Bytes(), nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func writeYAML(w io.Writer, text []byte) error {
	tree, err := parseOrdered(text)
	if err != nil {
		return fmt.Errorf("decode the result: %w", err)
	}
	out, err := yaml.Dump(tree, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// writeTSV prints one row per item and one cell per value, as az does: nested lists as their length, nested
// mappings empty. cell writes a plain value.
func writeTSV(w io.Writer, n *yaml.Node, cell func(*yaml.Node) string) error {
	rows := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		rows = n.Content
	}
	for _, row := range rows {
		var cells []string
		switch row.Kind {
		case yaml.MappingNode:
			for i := 1; i < len(row.Content); i += 2 {
				cells = append(cells, tsvCell(row.Content[i], cell))
			}
		case yaml.SequenceNode:
			for _, c := range row.Content {
				cells = append(cells, tsvCell(c, cell))
			}
		default:
			cells = []string{tsvCell(row, cell)}
			if row.Tag == "!!bool" {
				cells[0] = row.Value // alone in its row even az writes true
			}
		}
		if _, err := fmt.Fprintln(w, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return nil
}

func tsvCell(n *yaml.Node, cell func(*yaml.Node) string) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return fmt.Sprint(len(n.Content))
	case yaml.MappingNode:
		return ""
	}
	return cell(n)
}

// pythonCell writes a value as az does, which scripts compare with: None, True and False, and text as it is.
func pythonCell(n *yaml.Node) string {
	switch n.Tag {
	case "!!null":
		return "None"
	case "!!bool":
		return strings.ToUpper(n.Value[:1]) + n.Value[1:]
	}
	return n.Value
}

// oneLine writes tabs and line ends inside text as spaces, so that every line is one row.
func oneLine(n *yaml.Node) string {
	if n.Tag == "!!null" {
		return ""
	}
	return strings.NewReplacer("\t", " ", "\r\n", " ", "\n", " ", "\r", " ").Replace(n.Value)
}

// writeTable prints columns under underlined titles.
func writeTable(w io.Writer, n *yaml.Node, columns []column) error {
	rows := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		rows = n.Content
	}
	if len(rows) == 0 {
		return nil
	}
	table, err := tableCells(rows, columns)
	if err != nil {
		return err
	}
	under := make([]string, len(table[0]))
	for i, title := range table[0] {
		under[i] = strings.Repeat("-", len(title))
		for _, row := range table[1:] {
			under[i] = strings.Repeat("-", max(len(under[i]), len([]rune(row[i]))))
		}
	}
	var aligned bytes.Buffer
	tw := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, row := range slices.Insert(slices.Clone(table), 1, under) {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(aligned.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// tableCells gives the titles and then the rows. Without columns the plain values of the first row make them.
func tableCells(rows []*yaml.Node, columns []column) ([][]string, error) {
	if len(columns) > 0 {
		table := [][]string{nil}
		for _, c := range columns {
			table[0] = append(table[0], c.title)
		}
		for _, row := range rows {
			text, err := yamlToJSON(row)
			if err != nil {
				return nil, fmt.Errorf("decode a row: %w", err)
			}
			var v any
			if err := json.Unmarshal(text, &v); err != nil {
				return nil, fmt.Errorf("decode a row: %w", err)
			}
			cells := make([]string, len(columns))
			for i, c := range columns {
				found, err := jmespath.Search(c.path, v)
				if err != nil {
					return nil, fmt.Errorf("column %s: %w", c.title, err)
				}
				cells[i] = cellText(found)
			}
			table = append(table, cells)
		}
		return table, nil
	}
	var keys []string
	for _, row := range rows {
		for i := 0; row.Kind == yaml.MappingNode && i+1 < len(row.Content); i += 2 {
			if row.Content[i+1].Kind == yaml.ScalarNode && !slices.Contains(keys, row.Content[i].Value) {
				keys = append(keys, row.Content[i].Value)
			}
		}
	}
	if len(keys) == 0 {
		return listCells(rows), nil
	}
	table := [][]string{nil}
	for _, k := range keys {
		table[0] = append(table[0], strings.ToUpper(k[:1])+k[1:])
	}
	for _, row := range rows {
		cells := make([]string, len(keys))
		for i := 0; row.Kind == yaml.MappingNode && i+1 < len(row.Content); i += 2 {
			if at := slices.Index(keys, row.Content[i].Value); at >= 0 {
				cells[at] = oneLine(row.Content[i+1])
			}
		}
		table = append(table, cells)
	}
	return table, nil
}

// listCells shows rows that have no keys: lists by position, plain values alone.
func listCells(rows []*yaml.Node) [][]string {
	width := 1
	for _, row := range rows {
		if row.Kind == yaml.SequenceNode {
			width = max(width, len(row.Content))
		}
	}
	table := [][]string{make([]string, width)}
	for i := range width {
		table[0][i] = fmt.Sprintf("Column%d", i+1)
	}
	if width == 1 {
		table[0][0] = "Result"
	}
	for _, row := range rows {
		cells := make([]string, width)
		if row.Kind == yaml.SequenceNode {
			for i, c := range row.Content {
				cells[i] = tsvCell(c, oneLine)
			}
		} else {
			cells[0] = tsvCell(row, oneLine)
		}
		table = append(table, cells)
	}
	return table
}

// cellText writes one value into a cell: mappings as "a=1 b=2".
func cellText(v any) string {
	switch t := v.(type) {
	case nil:
		return ""
	case map[string]any:
		parts := make([]string, 0, len(t))
		for _, k := range sortedKeys(t) {
			parts = append(parts, k+"="+cellText(t[k]))
		}
		return strings.Join(parts, " ")
	case []any:
		parts := make([]string, len(t))
		for i, e := range t {
			parts[i] = cellText(e)
		}
		return strings.Join(parts, ",")
	case float64:
		return strings.TrimSuffix(fmt.Sprintf("%.2f", t), ".00")
	}
	return shortID(strings.NewReplacer("\t", " ", "\n", " ").Replace(fmt.Sprint(v)))
}

// shortAssetName is how many characters of a name that is a hash a table shows.
const shortAssetName = 12

// shortID writes the resource id of an asset version as NAME:VERSION; tables have no room for more. Names and
// versions that are content hashes are cut.
func shortID(s string) string {
	name, version := path.Base(path.Dir(path.Dir(s))), path.Base(s)
	if !strings.HasPrefix(s, referencePrefix+"/subscriptions/") || path.Base(path.Dir(s)) != "versions" {
		return s
	}
	cut := func(s string) string {
		if len(s) == 2*sha256.Size {
			return s[:shortAssetName]
		}
		return s
	}
	return cut(name) + ":" + cut(version)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
