// The smallest test harness that still says what failed: cases register themselves, a failed check
// ends its case, and the program's exit status counts the failed cases.
#pragma once

#include <cstddef>
#include <cstdio>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace check {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> registered;
  return registered;
}

struct Registration {
  Registration(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

template <class T>
std::string shown(const T& value) {
  std::ostringstream text;
  if constexpr (requires { text << value; }) {
    text << value;
  } else {
    text << "(" << sizeof(T) << " bytes)";
  }
  return text.str();
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

/// Runs the cases whose name contains the first argument, or all of them.
inline int run_all(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  int failed = 0;
  std::size_t ran = 0;
  for (const Case& one : cases()) {
    if (std::string(one.name).find(wanted) == std::string::npos) {
      continue;
    }
    ++ran;
    try {
      one.body();
      std::printf("ok    %s\n", one.name);
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAIL  %s\n      %s\n", one.name, error.what());
    }
  }
  std::printf("%zu cases, %d failed\n", ran, failed);
  // A filter that matches nothing is a mistake, not a success.
  return ran == 0 ? 1 : failed;
}

}  // namespace check

#define TEST_CASE(name)                                                    \
  static void name();                                                      \
  static const check::Registration registration_of_##name{#name, &(name)}; \
  static void name()

#define CHECK(condition)                                        \
  do {                                                          \
    if (!(condition)) {                                         \
      check::fail(__FILE__, __LINE__, "not true: " #condition); \
    }                                                           \
  } while (false)

#define CHECK_EQ(left, right)                                                         \
  do {                                                                                \
    const auto left_value = (left);                                                   \
    const auto right_value = (right);                                                 \
    if (!(left_value == right_value)) {                                               \
      check::fail(__FILE__, __LINE__,                                                 \
                  #left " == " #right ": " + check::shown(left_value) + " against " + \
                      check::shown(right_value));                                     \
    }                                                                                 \
  } while (false)

#define CHECK_THROWS(expression, Error)                                      \
  do {                                                                       \
    bool thrown = false;                                                     \
    try {                                                                    \
      static_cast<void>(expression);                                         \
    } catch (const Error&) {                                                 \
      thrown = true;                                                         \
    }                                                                        \
    if (!thrown) {                                                           \
      check::fail(__FILE__, __LINE__, #expression " did not throw " #Error); \
    }                                                                        \
  } while (false)

#define CHECK_MAIN()                   \
  int main(int argc, char** argv) {    \
    return check::run_all(argc, argv); \
  }
