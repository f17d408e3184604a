// What the page cache has of a file, read in place by whoever asks.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <string>
#include <vector>

namespace penstock::io {

// The whole file `name` into `vectors`: its size. Never waits for a disk: -EAGAIN when any of its
// name, inode or bytes would have to be read from one, or when the system cannot promise that it
// would not; -EFBIG when it is larger than `vectors`; -errno. After an error `vectors` may have
// been written to.
[[nodiscard]] std::int64_t read_file_now(int directory, const std::string& name,
                                         const std::vector<iovec>& vectors);

}  // namespace penstock::io
