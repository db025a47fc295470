// A C++ app in the style of OpenVINO's guide: it is given a path, and knows nothing of
// ovfuse.
//
//     guide_app MODEL_PATH       core.read_model(path), compile_model, infer
//     guide_app --blob PATH      core.import_model(stream, "CPU"), infer
//
// Prints one line per output: its number, shape, and the FNV-1a hash of its bytes. In
// f32 on one thread, so that two runs print the same.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>

#include <openvino/openvino.hpp>

namespace {

const ov::AnyMap config{
    {ov::hint::inference_precision.name(), ov::element::f32},
    {ov::inference_num_threads.name(), 1},
    {ov::num_streams.name(), 1},
};

ov::CompiledModel load(ov::Core& core, const std::string& path) {
    std::shared_ptr<ov::Model> model = core.read_model(path);
    return core.compile_model(model, "CPU", config);
}

ov::CompiledModel load_blob(ov::Core& core, const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) {
        throw std::runtime_error("cannot open " + path);
    }
    return core.import_model(stream, "CPU", config);
}

// A dynamic dimension becomes as small as it may be.
ov::Shape fixed_shape(const ov::PartialShape& partial) {
    ov::Shape shape;
    for (const ov::Dimension& dimension : partial) {
        shape.push_back(std::max<std::size_t>(1, dimension.get_min_length()));
    }
    return shape;
}

// A saw-tooth between -1 and 1; other types than f32 stay zero.
ov::Tensor make_input(const ov::Output<const ov::Node>& port) {
    ov::Tensor tensor(port.get_element_type(), fixed_shape(port.get_partial_shape()));
    std::memset(tensor.data(), 0, tensor.get_byte_size());
    if (port.get_element_type() == ov::element::f32) {
        float* values = tensor.data<float>();
        for (std::size_t i = 0; i < tensor.get_size(); ++i) {
            values[i] = static_cast<float>(i * 2654435761u % 65536) / 32768.0f - 1.0f;
        }
    }
    return tensor;
}

std::uint64_t fnv1a(const ov::Tensor& tensor) {
    const auto* bytes = static_cast<const unsigned char*>(tensor.data());
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (std::size_t i = 0; i < tensor.get_byte_size(); ++i) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

void infer_and_print(ov::CompiledModel& compiled) {
    ov::InferRequest request = compiled.create_infer_request();
    for (std::size_t i = 0; i < compiled.inputs().size(); ++i) {
        request.set_input_tensor(i, make_input(compiled.input(i)));
    }
    request.infer();
    for (std::size_t i = 0; i < compiled.outputs().size(); ++i) {
        const ov::Tensor output = request.get_output_tensor(i);
        std::cout << i << ' ' << output.get_shape() << ' ' << std::hex
                  << std::setw(16) << std::setfill('0') << fnv1a(output) << std::dec
                  << '\n';
    }
}

}  // namespace

int main(int argc, char** argv) try {
    const bool blob = argc == 3 && std::string(argv[1]) == "--blob";
    if (argc != 2 && !blob) {
        std::cerr << "usage: guide_app MODEL_PATH | --blob PATH\n";
        return 2;
    }
    ov::Core core;
    ov::CompiledModel compiled = blob ? load_blob(core, argv[2]) : load(core, argv[1]);
    infer_and_print(compiled);
    return 0;
} catch (const std::exception& error) {
    std::cerr << "guide_app: " << error.what() << '\n';
    return 1;
}
