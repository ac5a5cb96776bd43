// JSON schemas as grammars: the subset that OpenAI's strict mode accepts, and a little more.
// docs/server.md, "Structured output", says what that is.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/grammar/grammar_json.h"
#include "text/python_json.h"

namespace fathom {

// One schema document on its way into a grammar. Every function throws GrammarRefusal, led by the
// place in the document, for what is wrong or not supported.
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

  // Which of the values a schema allows, and how they are spelled.
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
    // Any name may be used, instead of the list's; `values`: their schema, null for any value.
    bool open = false;
    const OrderedJson* values = nullptr;
    std::string values_where;
  };

  // `root` is the document that references refer to and must outlive this; `where` stands for it
  // in messages.
  SchemaGrammar(const JsonGrammar& json, const OrderedJson& root, std::string where)
      : json_(json), g_(json.grammar()), root_(root), root_where_(std::move(where)) {}

  // A value that follows the document. A schema that has no such values leads nowhere.
  int32_t root(int32_t next) { return value(root_, root_where_, Want::json, next); }
  int32_t value(const OrderedJson& schema, const std::string& where, Want want, int32_t next);

  // The members of the object that the document describes. Refused if it describes anything else.
  Members root_members();
  int32_t object(const Members& members, int32_t next);

  // Makes the rules of everything that was referred to. Call once, at the end.
  void finish();

 private:
  struct Pending {
    int32_t rule;
    const OrderedJson* schema;
    std::string where;
    Want want;
  };
  // Counts how deep value() is inside of itself.
  struct Inside;

  int32_t value_inside(const OrderedJson& schema, const std::string& where, Want want,
                       int32_t next);
  int32_t reference(const OrderedJson& schema, const std::string& where, Want want, int32_t next);
  std::pair<const OrderedJson*, std::string> target_of(const OrderedJson& schema,
                                                       const std::string& where) const;
  int32_t enumeration(const OrderedJson& schema, const std::string& where, Want want, int32_t next);
  void check_enum_size(const OrderedJson& values, const std::string& where);
  int32_t any_of(const OrderedJson& schema, const std::string& where, Want want, int32_t next);
  int32_t of_type(std::string_view type, const OrderedJson& schema, const std::string& where,
                  Want want, int32_t next);
  int32_t string(const OrderedJson& schema, const std::string& where, Spelling spelling,
                 int32_t next);
  int32_t number(const OrderedJson& schema, const std::string& where, bool whole, int32_t next);
  int32_t array(const OrderedJson& schema, const std::string& where, int32_t next);
  Members members_of(const OrderedJson& schema, const std::string& where);
  void add_text(size_t bytes, const std::string& where);

  const JsonGrammar& json_;
  Grammar& g_;
  const OrderedJson& root_;
  std::string root_where_;
  std::map<std::pair<const OrderedJson*, Want>, int32_t> rules_;  // of references
  std::deque<Pending> pending_;
  std::set<const OrderedJson*> counted_;  // schemas that may be read twice count once
  size_t properties_ = 0, enum_values_ = 0, text_ = 0;
  int depth_ = 0, levels_ = 0;
  int32_t integer_ = -1;  // rule of integers without bounds
};

}  // namespace fathom
