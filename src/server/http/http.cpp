#include "server/http/http.h"

namespace fathom::server {
namespace {

std::string_view value_of(const std::map<std::string, std::string>& values, std::string_view name) {
  const auto it = values.find(std::string(name));
  return it == values.end() ? std::string_view{} : std::string_view(it->second);
}

}  // namespace

std::string_view HttpRequest::header(std::string_view lower_case_name) const {
  return value_of(headers, lower_case_name);
}

std::string_view HttpRequest::query_value(std::string_view name) const {
  return value_of(query, name);
}

}  // namespace fathom::server
