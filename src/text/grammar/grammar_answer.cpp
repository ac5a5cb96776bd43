#include "text/grammar/grammar_answer.h"

#include <fmt/format.h>

#include "text/chat_markers.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/json_schema_keywords.h"

namespace fathom {
namespace {

using schema::refuse;

constexpr size_t kMaxNameBytes = 256;
const CodeSet kNameCharacters = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};

// Names are written into tags and before markers without escapes, so they must not break these.
void check_name(const std::string& name, const std::string& where) {
  if (name.empty() || name.size() > kMaxNameBytes)
    refuse(where,
           fmt::format("expected a name of 1 to {} bytes, found {}", kMaxNameBytes, name.size()));
  for (const char c : name) {
    if (static_cast<unsigned char>(c) <= 0x20 || c == '"' || c == '<' || c == '>' || c == 0x7F)
      refuse(where, fmt::format("a name in a tool call has no white space, quotation marks or "
                                "angle brackets, found {}",
                                OrderedJson(name).dump(-1, ' ', true)));
  }
}

const std::string& name_of(const OrderedJson& tool, const std::string& where) {
  if (!tool.is_object())
    refuse(where, fmt::format("expected a function, found {}", schema::type_name(tool)));
  const OrderedJson* name = schema::find(tool, "name");
  if (!name || !name->is_string()) refuse(where + ".name", "expected the function's name");
  const std::string& text = name->get_ref<const std::string&>();
  check_name(text, where + ".name");
  return text;
}

// A function without parameters is called with none.
const OrderedJson& parameters_of(const OrderedJson& tool) {
  static const OrderedJson none = {{"type", "object"}, {"properties", OrderedJson::object()}};
  const OrderedJson* parameters = schema::find(tool, "parameters");
  return parameters && !parameters->is_null() ? *parameters : none;
}

}  // namespace

int32_t AnswerGrammar::marker(std::string_view text, int32_t next) {
  const auto token = tokenizer_.added_id_of(text);
  return token ? g_.marker(*token, next) : g_.literal(text, next);
}

// State i: the text ends in the first i bytes of the marker. The marker's first byte occurs in it
// only once. So where a byte does not continue the marker, a new one can begin only at that byte.
int32_t AnswerGrammar::reasoning(int32_t next) {
  const std::string_view end = marker::kEndThink;
  std::vector<int32_t> states;
  for (size_t i = 0; i < end.size(); ++i) states.push_back(g_.reserve());
  for (size_t i = 0; i < end.size(); ++i) {
    const auto c = static_cast<uint8_t>(end[i]);
    CodeSet others = {{0, kMaxCode}};
    others = without(others, {{c, c}, {'<', '<'}});
    // As in JSON strings: text that reads like another marker would end the answer early.
    if (i > 0) others = without(others, {{kBar, kBar}});
    std::vector<Grammar::Edge> edges = utf8_edges(g_, others, states[0]);
    edges.push_back(Grammar::edge(end[i], i + 1 < end.size() ? states[i + 1] : next));
    if (i > 0) edges.push_back(Grammar::edge('<', states[1]));
    std::vector<int32_t> ways = {g_.bytes(edges)};
    if (const auto token = tokenizer_.added_id_of(end)) ways.push_back(g_.marker(*token, next));
    g_.fill(states[i], ways);
  }
  return states[0];
}

int32_t AnswerGrammar::tool_calls(const AnswerForm& form, int32_t next) {
  if (form.tools.empty()) refuse("tools", "a tool call is required, but there is no tool");
  const bool v31 = encoding_ == Encoding::v31;
  const int32_t end =
      v31 ? marker(marker::kCallsEnd, next) : dsml_tag("</", "function_calls>", next);
  const int32_t after_call = g_.reserve();
  std::vector<int32_t> calls;
  for (size_t i = 0; i < form.tools.size(); ++i) calls.push_back(call(form, i, after_call));
  const int32_t any_call = v31 ? marker(marker::kCallBegin, g_.split(calls))
                               : dsml_tag("<", "invoke name=\"", g_.split(calls));
  g_.fill(after_call,
          form.parallel_calls ? std::vector<int32_t>{any_call, end} : std::vector<int32_t>{end});
  return v31 ? marker(marker::kCallsBegin, any_call)
             : g_.literal("\n\n", dsml_tag("<", "function_calls>\n", any_call));
}

int32_t AnswerGrammar::call(const AnswerForm& form, size_t index, int32_t next) {
  const OrderedJson& tool = form.tools[index];
  const std::string where = fmt::format("tools[{}]", index);
  const std::string& name = name_of(tool, where);
  const OrderedJson* strict = schema::find(tool, "strict");
  const bool is_strict = strict && strict->is_boolean() ? strict->get<bool>() : form.strict_tools;
  SchemaGrammar schema(
      json_, parameters_of(tool),
      index < form.tool_places.size() ? form.tool_places[index] : where + ".parameters", is_strict);
  const bool v31 = encoding_ == Encoding::v31;
  // v3.2: parameters stand one a line; where there are none their place is an empty line.
  const int32_t end =
      v31 ? marker(marker::kCallEnd, next) : g_.byte('\n', dsml_tag("</", "invoke>\n", next));
  const std::vector<SchemaGrammar::Members> objects = schema.root_objects();
  const int32_t arguments = schema.choice(objects.size(), [&](size_t i) {
    return v31 ? schema.object(objects[i], end) : parameters_v32(schema, objects[i], end);
  });
  schema.finish();
  return g_.literal(name,
                    v31 ? marker(marker::kToolSep, arguments) : g_.literal("\">\n", arguments));
}

// The DSML marker between a tag's first and last part.
int32_t AnswerGrammar::dsml_tag(std::string_view begin, std::string_view end, int32_t next) {
  return g_.literal(begin, marker(marker::kDsml, g_.literal(end, next)));
}

// A parameter: the tag that opens it, followed by `text` for a string or by `other` for another
// value.
int32_t AnswerGrammar::parameter(std::string_view name, int32_t text, int32_t other) {
  const int32_t kind = g_.split({g_.literal("true\">", text), g_.literal("false\">", other)});
  return dsml_tag("<", fmt::format("parameter name=\"{}\" string=\"", name), kind);
}

int32_t AnswerGrammar::parameters_v32(SchemaGrammar& schema, const SchemaGrammar::Members& members,
                                      int32_t end) {
  using Want = SchemaGrammar::Want;
  if (members.open) return any_parameters_v32(schema, members, end);
  const auto member = [&](const SchemaGrammar::Member& m, int32_t after) {
    const int32_t close = dsml_tag("</", "parameter>", after);
    return parameter(m.name, schema.value(*m.schema, m.where, Want::raw_string, close),
                     schema.value(*m.schema, m.where, Want::not_string, close));
  };
  int32_t from_here = -1;
  bool may_end = true;
  for (auto m = members.list.rbegin(); m != members.list.rend(); ++m) {
    check_name(m->name, m->where);
    std::vector<int32_t> after;
    if (may_end) after.push_back(end);
    if (from_here >= 0) after.push_back(g_.byte('\n', from_here));
    const int32_t this_one = member(*m, g_.split(after));
    from_here = m->required || from_here < 0 ? this_one : g_.split({this_one, from_here});
    may_end = may_end && !m->required;
  }
  std::vector<int32_t> first;
  if (from_here >= 0) first.push_back(from_here);
  if (may_end && !(members.not_empty && from_here >= 0)) first.push_back(end);
  return g_.split(first);
}

// Parameters of any names.
int32_t AnswerGrammar::any_parameters_v32(SchemaGrammar& schema,
                                          const SchemaGrammar::Members& members, int32_t end) {
  using Want = SchemaGrammar::Want;
  static const OrderedJson any = true;
  const OrderedJson& values = members.values ? *members.values : any;
  const int32_t more = g_.reserve();
  const int32_t close = dsml_tag("</", "parameter>", more);
  const auto value = [&](Want want) {
    return schema.value(values, members.values_where, want, close);
  };
  const int32_t kind =
      g_.literal("\" string=\"", g_.split({g_.literal("true\">", value(Want::raw_string)),
                                           g_.literal("false\">", value(Want::not_string))}));
  int32_t name = -1;
  if (members.names) {
    name = schema.value(*members.names, members.names_where, Want::raw_string, kind);
  } else {
    const int32_t key = g_.add_rule("name");
    g_.set_start(key, json_.character(kNameCharacters, Spelling::raw, Grammar::kEnd));
    name = g_.repeat(key, 1, 64, kind);
  }
  const int32_t first = dsml_tag("<", "parameter name=\"", name);
  g_.fill(more, {end, g_.byte('\n', first)});
  return members.min > 0 ? first : g_.split({first, end});
}

}  // namespace fathom
