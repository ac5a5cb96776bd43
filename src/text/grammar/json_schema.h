// JSON schemas as grammars, as far as they can be checked while reading from left to right.
// docs/server.md, "Structured output", lists what is supported.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/grammar/grammar_json.h"
#include "text/grammar/grammar_number.h"
#include "text/grammar/json_schema_core.h"
#include "text/python_json.h"

namespace fathom {

// Makes the grammar of one schema document. Every function throws GrammarRefusal, whose message
// begins with the place in the document, for what is wrong. In strict mode it also throws for what
// is not supported. Otherwise that is ignored, and the grammar allows more than the schema.
class SchemaGrammar {
 public:
  static constexpr size_t kMaxProperties = 5000;  // in all
  static constexpr size_t kMaxOptionalInARow = 1000;
  static constexpr int kMaxLevels = 10;               // objects and arrays inside each other
  static constexpr int kMaxDepth = 64;                // schemas inside each other
  static constexpr size_t kMaxEnumValues = 1000;      // in all
  static constexpr size_t kMaxLongEnum = 250;         // values; larger ones may have ...
  static constexpr size_t kMaxLongEnumText = 15'000;  // ... this many bytes of text
  static constexpr size_t kMaxReferences = 1000;      // schemas that a $ref leads to
  static constexpr size_t kMaxText = 120'000;         // bytes of all names and enum values
  static constexpr size_t kMaxDistinct = 8;           // values that uniqueItems is enforced for
  static constexpr size_t kMaxRootObjects = 64;       // ways to write the arguments of a tool

  // Which of the schema's values are wanted, and in which spelling.
  enum class Want {
    json,        // all, as JSON
    not_string,  // all but strings, as JSON
    raw_string,  // strings alone, as they are
  };

  struct Member {
    std::string name;
    const OrderedJson* schema = nullptr;
    bool required = false;
    std::string where;
  };
  struct Members {
    std::vector<Member> list;
    // True: any name may be used instead of those in `list`. `values`: the schema of their values;
    // null for any value.
    bool open = false;
    const OrderedJson* values = nullptr;
    std::string values_where;
    // The names of an open object: a schema of strings, or a pattern; both empty: any text.
    const OrderedJson* names = nullptr;
    std::string names_pattern, names_where;
    uint32_t min = 0, max = Grammar::kUnbounded;  // members of an open object
    bool not_empty = false;                       // of a list without required members
  };

  // `root` is the document that references refer to and must outlive this; `where` stands for it
  // in messages.
  SchemaGrammar(const JsonGrammar& json, const OrderedJson& root, std::string where, bool strict)
      : json_(json),
        g_(json.grammar()),
        root_(root),
        root_where_(where),
        core_(root, std::move(where), strict) {}

  // A value that follows the document. If there is none, `next` cannot be reached.
  int32_t root(int32_t next);
  int32_t value(const OrderedJson& schema, const std::string& where, Want want, int32_t next);

  // Returns the ways to write the object that the document describes. Throws if it describes no
  // object.
  std::vector<Members> root_objects();
  // One of `count` branches, each made by `branch(i)`. Branches that contradict themselves are
  // dropped. In strict mode, or if none is left, they are refused.
  int32_t choice(size_t count, const std::function<int32_t(size_t)>& branch);
  int32_t object(const Members& members, int32_t next);

  // Makes the rules of all schemas that were referred to. Call once, at the end.
  void finish();

 private:
  struct Pending {
    int32_t rule;
    const OrderedJson* schema;
    std::string where;
    Want want;
    bool of_choice;  // it was found inside one of several branches, which may be dropped
  };
  // Counts how deep value() calls itself.
  struct Inside;

  int32_t value_inside(const OrderedJson& schema, const std::string& where, Want want,
                       int32_t next);
  int32_t reference(const OrderedJson& schema, const std::string& where, Want want, int32_t next);
  int32_t merged(const OrderedJson& schema, const std::string& where, Want want, int32_t next);
  int32_t enumeration(const OrderedJson& schema, const std::string& where, Want want, int32_t next);
  void check_enum_size(const OrderedJson& values, const std::string& where);
  int32_t any_of(const OrderedJson& schema, const std::string& where, Want want, int32_t next);
  int32_t of_type(std::string_view type, const OrderedJson& schema, const std::string& where,
                  Want want, int32_t next);
  int32_t string(const OrderedJson& schema, const std::string& where, Spelling spelling,
                 int32_t next);
  int32_t number(const OrderedJson& schema, const std::string& where, bool whole, int32_t next);
  void add_bounds(const OrderedJson& schema, const std::string& where, NumberForm& form) const;
  void add_multiple(const OrderedJson& schema, const std::string& where, NumberForm& form) const;
  int32_t array(const OrderedJson& schema, const std::string& where, int32_t next);
  int32_t distinct_items(const OrderedJson& values, uint32_t min, uint32_t max, int32_t next);
  int32_t open_object(const Members& members, int32_t next);
  int32_t member_name(const Members& members, int32_t next);
  void name_members(const OrderedJson& schema, const std::string& where, Members& members);
  void require_members(const OrderedJson& schema, const std::string& where, Members& members);
  void count_members(const OrderedJson& schema, const std::string& where, Members& members);
  void add_root_objects(const OrderedJson& schema, const std::string& where, int depth,
                        std::vector<Members>& objects);
  Members members_of(const OrderedJson& schema, const std::string& where);
  void add_text(size_t bytes, const std::string& where);

  const JsonGrammar& json_;
  Grammar& g_;
  const OrderedJson& root_;
  std::string root_where_;
  SchemaCore core_;
  std::map<std::pair<const OrderedJson*, Want>, int32_t> rules_;  // of references
  // Rules of schemas that are merged from several, by their text. Only the text tells whether such
  // a schema contains itself.
  std::map<std::pair<std::string, Want>, int32_t> merged_rules_;
  std::deque<Pending> pending_;
  std::set<const OrderedJson*> counted_;  // schemas whose text is counted; each counts once
  size_t properties_ = 0, enum_values_ = 0, text_ = 0;
  int depth_ = 0, levels_ = 0;
  int choices_ = 0;       // choices with several branches around the current schema
  int32_t integer_ = -1;  // rule of integers without bounds
};

}  // namespace fathom
