//! The verifier accepts what is right and names what is not.

use q35_kernel::text::parse;
use q35_kernel::{Access, Inst, Kernel, Literal, Mem, Place, Stmt, Type, Value, verify};

const HEADER: &str = "
    param x: f32 read
    param ints: i32 read
    param out: f32 write
    param both: f32 readwrite
    param list: bf16 read table
    shared row: f32[64]
    shared tile: bf16[512]
    shared other: f16[512]
    accumulator acc: f32[16, 8]
    %0: i32 = const 4
    %1: f32 = const 1.0
    %2: f32x4 = splat %1
    %3: bool = const true
    %4: i32 = lane
";

fn kernel(lanes: u32, body: &str) -> Kernel {
    parse(&format!("kernel k lanes {lanes} {HEADER} {body}")).expect("it can be read")
}

#[track_caller]
fn accepted(lanes: u32, body: &str) {
    let kernel = kernel(lanes, body);
    assert_eq!(verify(&kernel), Ok(()), "{kernel}");
}

/// The first finding is this.
#[track_caller]
fn refused(lanes: u32, body: &str, message: &str) {
    check(&kernel(lanes, body), message);
}

#[track_caller]
fn check(kernel: &Kernel, message: &str) {
    let findings = verify(kernel).expect_err("something is wrong");
    assert_eq!(findings[0].to_string(), message);
}

#[test]
fn operands_have_the_types_that_the_instruction_wants() {
    accepted(1, "%5: f32x4 = add %2, %2 %6: boolx4 = lt %5, %2 %7: f32x4 = select %3, %5, %2");
    refused(
        1,
        "%5: f32 = add %1, %2",
        "`%5: f32 = add %1, %2`: the right operand is f32x4, expected f32",
    );
    refused(
        1,
        "%5: f32 = and %1, %1",
        "`%5: f32 = and %1, %1`: the left operand is f32, expected i32 or bool",
    );
    refused(1, "%5: i32 = add %1, %1", "`%5: i32 = add %1, %1`: the result is i32, expected f32");
    refused(
        1,
        "%5: f32 = int_to_float %1",
        "`%5: f32 = int_to_float %1`: the operand is f32, expected i32",
    );
    refused(
        1,
        "%5: f32 = fma %1, %1, %0",
        "`%5: f32 = fma %1, %1, %0`: the summand is i32, expected f32",
    );
    refused(
        1,
        "%5: bool = eq %3, %3",
        "`%5: bool = eq %3, %3`: the left operand is bool, expected f32 or i32",
    );
    refused(1, "%5: f32 = lt %1, %1", "`%5: f32 = lt %1, %1`: the result is f32, expected bool");
    refused(
        1,
        "%5: boolx2 = splat %3 %6: f32x4 = select %5, %2, %2",
        "`%6: f32x4 = select %5, %2, %2`: the condition is boolx2, expected boolx4",
    );
    refused(
        1,
        "%5: f32x8 = splat %2",
        "`%5: f32x8 = splat %2`: the operand is f32x4, expected f32",
    );
    refused(1, "%5: f32 = extract %2, 4", "`%5: f32 = extract %2, 4`: element 4 of a vector of 4");
    refused(
        1,
        "%5: bool = reduce max %3",
        "`%5: bool = reduce max %3`: the operand is bool, expected f32 or i32",
    );
    refused(
        1,
        "%5: bool = cluster sum %3, 1",
        "`%5: bool = cluster sum %3, 1`: the operand is bool, expected f32 or i32",
    );
    refused(
        1,
        "%5: f32x3 = splat %1",
        "`kernel k`: `%5` is f32x3, expected 1, 2, 4, 8 or 16 elements",
    );
}

#[test]
fn vectors_are_of_scalars_of_one_type() {
    accepted(
        1,
        "%5: f32x2 = vector %1, %1 %6: boolx4 = vector %3, %3, %3, %3 %7: i32 = float_to_int %1",
    );
    refused(
        1,
        "%5: f32x2 = vector %1, %0",
        "`%5: f32x2 = vector %1, %0`: an element is i32, expected f32",
    );
    refused(
        1,
        "%5: f32x8 = vector %2, %2",
        "`%5: f32x8 = vector %2, %2`: an element is f32x4, expected f32",
    );
    refused(
        1,
        "%5: f32x4 = vector %1, %1",
        "`%5: f32x4 = vector %1, %1`: the result is f32x4, expected f32x2",
    );
    refused(1, "%5: f32 = vector %1", "`%5: f32 = vector %1`: 1 elements, expected 2, 4, 8 or 16");
    refused(
        1,
        "%5: i32 = float_to_int %0",
        "`%5: i32 = float_to_int %0`: the operand is i32, expected f32",
    );
}

#[test]
fn clusters_divide_the_group() {
    accepted(32, "%5: f32x4 = cluster min %2, 1 %6: i32 = cluster sum %4, 32");
    accepted(12, "%5: i32 = cluster sum %4, 4");
    for (lanes, size) in [(32, 0), (32, 3), (32, 64), (12, 8)] {
        let line = format!("%5: i32 = cluster max %4, {size}");
        let problem = format!(
            "`{line}`: a cluster of {size} lanes, expected a power of two that divides {lanes}"
        );
        refused(lanes, &line, &problem);
    }
}

/// In a kernel of 32 lanes, eight to a subgroup.
#[track_caller]
fn subgroups(body: &str) -> Kernel {
    let kernel = kernel(32, body);
    parse(&kernel.to_string().replace("lanes 32", "lanes 32 subgroup 8")).expect("it was printed")
}

#[test]
fn matrix_instructions_are_of_shared_tiles_and_whole_steps() {
    let mma =
        |a: &str, b: &str, k: u32| format!("mma acc, a = {a} row %0, b = {b} row %0, k = {k}");
    accepted(1, &mma("tile[%0]", "tile[%0]", 16));
    accepted(1, &mma("other[%0]", "other[%0]", 4096));
    accepted(1, "mma_zero acc mma_load acc, x[%0] row %0 mma_store acc, row[%0] row %0");
    accepted(1, "mma_load acc, both[%0] row %0 mma_store acc, both[%0] row %0");
    let refused = |line: &str, problem: &str| refused(1, line, &format!("`{line}`: {problem}"));
    refused(&mma("x[%0]", "tile[%0]", 16), "`a` is in a buffer, expected a shared array");
    refused(&mma("row[%0]", "tile[%0]", 16), "`a` is in f32, expected bf16 or f16");
    refused(&mma("tile[%0]", "row[%0]", 16), "`b` is in f32, expected bf16 or f16");
    refused(&mma("tile[%0]", "other[%0]", 16), "`b` is in f16, expected what `a` is in");
    refused(&mma("tile[%1]", "tile[%0]", 16), "the index is f32, expected i32");
    for k in [0, 8, 4112] {
        let problem = format!("{k} products a sum, expected a multiple of 16 up to 4096");
        refused(&mma("tile[%0]", "tile[%0]", k), &problem);
    }
    refused(
        "mma acc, a = tile[%0] row %1, b = tile[%0] column %0, k = 16",
        "the stride of `a` is f32, expected i32",
    );
    refused(
        "mma acc, a = tile[%0] row %0, b = tile[%0] column %1, k = 16",
        "the stride of `b` is f32, expected i32",
    );
    refused("mma_store acc, x[%0] row %0", "`x` is read only");
    refused("mma_load acc, out[%0] row %0", "`out` is write only");
    refused("mma_load acc, list[%0][%0] row %0", "the matrix is in bf16, expected f32");
    refused("mma_store acc, row[%0] row %1", "the stride is f32, expected i32");
    let mut wrong = kernel(1, "mma_zero acc");
    wrong.accumulators.clear();
    check(&wrong, "`mma_zero ?0`: `Acc(0)` does not exist");
}

#[test]
fn matrix_instructions_stand_where_their_subgroup_is() {
    let accepted = |body: &str| {
        let kernel = subgroups(body);
        assert_eq!(verify(&kernel), Ok(()), "{kernel}");
    };
    let refused = |body: &str, message: &str| check(&subgroups(body), message);
    let number = "%5: i32 = subgroup %6: bool = lt %5, %0";
    accepted(&format!("{number} if %6 {{ mma_zero acc }} mma_load acc, x[%5] row %5"));
    accepted(&format!("{number} for %7: i32 in %0..%5 step 1 {{ mma_store acc, out[%7] row %0 }}"));
    // What each cluster has is the same within a subgroup, if it is one or more of them.
    accepted("%5: i32 = cluster sum %4, 8 mma_load acc, x[%5] row %0");
    accepted("%5: i32 = cluster sum %4, 16 %6: i32 = load ints[%5] mma_load acc, x[%6] row %0");
    accepted("%5: i32 = cluster sum %0, 2 mma_load acc, x[%5] row %0");
    let mma = "mma acc, a = tile[%0] row %0, b = tile[%4] row %0, k = 16";
    refused(
        mma,
        &format!("`{mma}`: the index of `b` is `%4`, which may differ between lanes of a subgroup"),
    );
    let load = "mma_load acc, x[%5] row %0";
    let differs =
        format!("`{load}`: the index is `%5`, which may differ between lanes of a subgroup");
    for index in ["cluster sum %4, 4", "group_scan %0", "add %4, %0"] {
        refused(&format!("%5: i32 = {index} {load}"), &differs);
    }
    refused(
        "mma_store acc, out[%0] row %4",
        "`mma_store acc, out[%0] row %4`: the stride is `%4`, which may differ between lanes of a subgroup",
    );
    let control = "control is not uniform over the subgroup here: it depends on what may differ between its lanes";
    refused("%5: bool = lt %4, %0 if %5 { mma_zero acc }", &format!("`mma_zero acc`: {control}"));
    refused(
        &format!("{number} if %6 {{ for %7: i32 in %0..%4 step 1 {{ mma_zero acc }} }}"),
        &format!("`mma_zero acc`: {control}"),
    );
    // A whole group does what it does together elsewhere.
    refused(
        &format!("{number} if %6 {{ barrier }}"),
        "`barrier`: control is not uniform here: it depends on what may differ between lanes",
    );
    refused(
        &format!("{number} if %6 {{ %7: f32 = cluster sum %1, 4 }}"),
        "`%7: f32 = cluster sum %1, 4`: control is not uniform here: it depends on what may differ between lanes",
    );
}

#[test]
fn the_only_subgroup_of_a_group_is_the_group() {
    let kernel = kernel(8, "%5: i32 = subgroup %6: bool = lt %5, %0 if %6 { barrier }");
    let only = kernel.to_string().replace("lanes 8", "lanes 8 subgroup 8");
    assert_eq!(verify(&parse(&only).expect("it was printed")), Ok(()));
    check(
        &kernel,
        "`barrier`: control is not uniform here: it depends on what may differ between lanes",
    );
}

#[test]
fn divisors_and_shifts_are_held_to_their_range() {
    accepted(
        1,
        "%5: i32 = div %4, %0 %6: i32x4 = splat %0 %7: i32x4 = rem %6, %6 %8: i32 = shl %0, %4",
    );
    accepted(1, "%5: f32 = div %1, %1");
    let divisor = "the divisor is not known to be a positive constant";
    refused(1, "%5: i32 = div %0, %4", &format!("`%5: i32 = div %0, %4`: {divisor}"));
    refused(
        1,
        "%5: i32 = const 0 %6: i32 = rem %0, %5",
        &format!("`%6: i32 = rem %0, %5`: {divisor}"),
    );
    refused(
        1,
        "%5: i32 = const 32 %6: i32 = shr %0, %5",
        "`%6: i32 = shr %0, %5`: a shift by 32, expected 0 to 31",
    );
}

#[test]
fn values_are_visible_in_their_block_and_those_within() {
    accepted(1, "if %3 { %5: f32 = neg %1 if %3 { %6: f32 = neg %5 } } else { %7: f32 = neg %1 }");
    refused(
        1,
        "%5: f32 = neg %6 %6: f32 = neg %1",
        "`%5: f32 = neg %6`: the operand is `%6`, which is not visible here",
    );
    refused(
        1,
        "if %3 { %5: f32 = neg %1 } %6: f32 = neg %5",
        "`%6: f32 = neg %5`: the operand is `%5`, which is not visible here",
    );
    refused(
        1,
        "if %3 { %5: f32 = neg %1 } else { %6: f32 = neg %5 }",
        "`%6: f32 = neg %5`: the operand is `%5`, which is not visible here",
    );
    refused(
        1,
        "for %5: i32 in %0..%0 step 1 { } %6: i32 = add %5, %0",
        "`%6: i32 = add %5, %0`: the left operand is `%5`, which is not visible here",
    );
    refused(
        1,
        "%5: f32 = for %6: i32 in %0..%0 step 1 carry %7: f32 = %1 { %8: f32 = neg %5 yield %8 }",
        "`%8: f32 = neg %5`: the operand is `%5`, which is not visible here",
    );
    refused(1, "yield %1", "`kernel k`: 1 yields, expected 0");
}

#[test]
fn blocks_yield_what_their_statement_gives() {
    accepted(1, "%5: f32, %6: i32 = if %3 { yield %1, %0 } else { yield %1, %4 }");
    accepted(
        1,
        "%5: f32 = for %6: i32 in %0..%4 step 2 carry %7: f32 = %1 { %8: f32 = neg %7 yield %8 }",
    );
    refused(1, "%5: f32 = if %3 { yield %1 }", "`%5: f32 = if %3`: 0 yields, expected 1");
    refused(
        1,
        "%5: f32 = if %3 { yield %1 } else { yield %0 }",
        "`%5: f32 = if %3`: a yield is i32, expected f32",
    );
    let line = "%5: f32 = for %6: i32 in %0..%0 step 1 carry %7: f32 = %1";
    refused(
        1,
        &format!("{line} {{ yield %0 }}"),
        &format!("`{line}`: a yield is i32, expected f32"),
    );
    refused(1, &format!("{line} {{ }}"), &format!("`{line}`: 0 yields, expected 1"));
    refused(
        1,
        "for %5: i32 in %0..%0 step 1 carry %6: f32 = %1 { yield %6 }",
        "`for %5: i32 in %0..%0 step 1 carry %6: f32 = %1`: 0 results, expected 1",
    );
    refused(1, "for %5: i32 in %0..%0 step 0 { }", "`for %5: i32 in %0..%0 step 0`: a step of 0");
    refused(
        1,
        "for %5: f32 in %0..%0 step 1 { }",
        "`for %5: f32 in %0..%0 step 1`: the loop variable is f32, expected i32",
    );
    refused(1, "if %0 { }", "`if %0`: the condition is i32, expected bool");
}

#[test]
fn memories_are_accessed_as_they_say() {
    accepted(
        1,
        "store out[%0], %2 store both[%0], %1 store row[%0], %2 %5: f32 = load both[%4] %6: f32x4 = load list[%0][%4]",
    );
    refused(1, "store x[%0], %1", "`store x[%0], %1`: `x` is read only");
    refused(1, "store list[%0][%0], %1", "`store list[%0][%0], %1`: `list` is read only");
    refused(1, "%5: f32 = load out[%0]", "`%5: f32 = load out[%0]`: `out` is write only");
    refused(
        1,
        "%5: f32 = load list[%0]",
        "`%5: f32 = load list[%0]`: `list` is a table, expected an entry of it",
    );
    refused(
        1,
        "%5: f32 = load x[%0][%0]",
        "`%5: f32 = load x[%0][%0]`: `x` is no table, but an entry of it is named",
    );
    refused(1, "%5: f32 = load x[%1]", "`%5: f32 = load x[%1]`: the index is f32, expected i32");
    refused(
        1,
        "%5: f32 = load list[%1][%0]",
        "`%5: f32 = load list[%1][%0]`: the entry is f32, expected i32",
    );
    refused(1, "%5: i32 = load x[%0]", "`%5: i32 = load x[%0]`: the result is i32, expected f32");
    refused(1, "store out[%0], %0", "`store out[%0], %0`: the value is i32, expected f32");
    refused(1, "store out[%0], %3", "`store out[%0], %3`: the value is bool, expected f32");
}

#[test]
fn panel_dots_are_of_floats_and_one_lane() {
    let dot = |x: &str, w: &str, out: &str, tail: &str| {
        format!(
            "panel_dot x = {x} row %0 k %0, w = {w} panel %0, out = {out} row %0, rows = %0, panels = %0, k = %0{tail}"
        )
    };
    accepted(1, &dot("x[%0]", "list[%0][%0]", "out[%0]", ""));
    accepted(1, &dot("row[%0]", "x[%0]", "both[%0]", ", accumulate"));
    let refused =
        |lanes, line: String, problem: &str| refused(lanes, &line, &format!("`{line}`: {problem}"));
    refused(1, dot("x[%0]", "x[%0]", "out[%0]", ", accumulate"), "`out` is write only");
    refused(1, dot("list[%0][%0]", "x[%0]", "out[%0]", ""), "`x` is in bf16, expected f32");
    refused(1, dot("x[%0]", "ints[%0]", "out[%0]", ""), "`w` is in i32, expected a float");
    refused(1, dot("x[%0]", "x[%0]", "x[%0]", ""), "`x` is read only");
    refused(
        32,
        dot("x[%0]", "x[%0]", "out[%0]", ""),
        "`panel_dot` in a kernel of 32 lanes, expected 1",
    );
}

#[test]
fn group_operations_stand_where_control_is_uniform() {
    let same = "%5: i32 = load ints[%0] %6: bool = lt %5, %0";
    accepted(32, &format!("{same} if %6 {{ barrier }} for %7: i32 in %0..%5 step 1 {{ barrier }}"));
    accepted(32, "%5: i32 = cluster max %4, 32 %6: bool = lt %5, %0 if %6 { barrier }");
    accepted(32, "%5: bool = lt %4, %0 if %5 { } barrier");
    accepted(1, "%5: bool = lt %4, %0 if %5 { barrier }");
    let wrong = "control is not uniform here: it depends on what may differ between lanes";
    let barrier = format!("`barrier`: {wrong}");
    refused(32, "%5: bool = lt %4, %0 if %5 { barrier }", &barrier);
    refused(32, "%5: bool = lt %4, %0 if %5 { } else { if %3 { barrier } }", &barrier);
    refused(32, "for %5: i32 in %0..%4 step 1 { barrier }", &barrier);
    refused(32, "for %5: i32 in %4..%0 step 1 { barrier }", &barrier);
    refused(32, "%5: i32 = load ints[%4] %6: bool = lt %5, %0 if %6 { barrier }", &barrier);
    refused(32, "%5: f32 = load row[%0] %6: bool = lt %5, %1 if %6 { barrier }", &barrier);
    refused(32, "%5: f32 = load both[%0] %6: bool = lt %5, %1 if %6 { barrier }", &barrier);
    refused(32, "%5: i32 = group_scan %0 %6: bool = lt %5, %0 if %6 { barrier }", &barrier);
    refused(
        32,
        "%5: bool = lt %4, %0 if %5 { %6: f32 = cluster sum %1, 32 }",
        &format!("`%6: f32 = cluster sum %1, 32`: {wrong}"),
    );
    refused(
        32,
        "%5: bool = lt %4, %0 if %5 { %6: f32 = group_scan %1 }",
        &format!("`%6: f32 = group_scan %1`: {wrong}"),
    );
}

#[test]
fn what_varies_is_followed_around_loops_and_out_of_branches() {
    let barrier =
        "`barrier`: control is not uniform here: it depends on what may differ between lanes";
    // The second time round, the condition is what the lane's number was.
    refused(
        32,
        "%5: i32, %6: i32 = for %7: i32 in %0..%0 step 1 carry %8: i32 = %0, %9: i32 = %4 {
            %10: bool = lt %8, %0
            if %10 { barrier }
            yield %9, %4
        }",
        barrier,
    );
    refused(
        32,
        "%5: bool = lt %4, %0
        %6: bool = if %5 { yield %3 } else { %7: bool = not %3 yield %7 }
        if %6 { barrier }",
        barrier,
    );
    // Lanes that stop at different times carry different counts out.
    refused(
        32,
        "%5: i32 = for %6: i32 in %0..%4 step 1 carry %7: i32 = %0 { %8: i32 = add %7, %0 yield %8 }
        %9: bool = lt %5, %0
        if %9 { barrier }",
        barrier,
    );
}

#[test]
fn headers_are_checked() {
    let header = |text: &str, message: &str| check(&parse(text).expect("it can be read"), message);
    header("kernel k lanes 0", "`kernel k`: 0 lanes, expected 1 to 1024");
    header("kernel k lanes 1025", "`kernel k`: 1025 lanes, expected 1 to 1024");
    for (lanes, subgroup) in [(32, 0), (32, 64), (24, 3), (24, 16)] {
        header(
            &format!("kernel k lanes {lanes} subgroup {subgroup}"),
            &format!(
                "`kernel k`: a subgroup of {subgroup} lanes, expected a power of two that divides {lanes}"
            ),
        );
    }
    for (m, n) in [(0, 8), (16, 0), (8, 8), (16, 12)] {
        header(
            &format!("kernel k lanes 1 accumulator a: f32[{m}, {n}]"),
            &format!(
                "`accumulator a: f32[{m}, {n}]`: an accumulator of {m} x {n}, expected multiples of 16 x 8"
            ),
        );
    }
    header(
        "kernel k lanes 1 accumulator a: f32[4294967280, 4294967288]",
        "`kernel k`: 18446743970630336640 elements of accumulators, expected at most 16384",
    );
    header(
        "kernel k lanes 1 shared x: f32[1] accumulator x: f32[16, 8]",
        "`accumulator x: f32[16, 8]`: `x` is the name of two memories",
    );
    header(
        "kernel k lanes 1 param x: f32 read shared x: f32[1]",
        "`shared x: f32[1]`: `x` is the name of two memories",
    );
    header(
        "kernel k lanes 1 param x: f32 write table",
        "`param x: f32 write table`: a table is write, expected read",
    );
    header(
        "kernel k lanes 1 shared x: f32[0]",
        "`shared x: f32[0]`: a shared array of no elements",
    );
    header(
        "kernel k lanes 1 shared x: f32[4294967295]",
        "`kernel k`: 17179869184 bytes of shared arrays, expected at most 16777216",
    );
}

#[test]
fn kernels_that_have_no_text_are_refused_too() {
    let mut wrong = kernel(1, "");
    wrong.name = "no name".into();
    check(
        &wrong,
        "`kernel no name`: `no name` is no name, expected letters, digits and `_`, not starting with a digit",
    );

    let mut wrong = kernel(1, "");
    wrong.types.push(Type::F32);
    check(&wrong, "`kernel k`: `%5` is never defined");

    let stmt =
        |results: &[u32], inst| Stmt { results: results.iter().map(|&v| Value(v)).collect(), inst };
    let with = |stmt| {
        let mut kernel = kernel(1, "");
        kernel.body.stmts.push(stmt);
        kernel
    };
    let four = Inst::Const(Literal::I32(4));
    check(&with(stmt(&[0], four.clone())), "`%0: i32 = const 4`: `%0` is defined again");
    check(&with(stmt(&[9], four.clone())), "`%9: ? = const 4`: `%9` has no type");
    check(&with(stmt(&[], four)), "`const 4`: 0 results, expected 1");
    let index = Value(0);
    let store = |mem| Inst::Store { at: Place { mem, index }, value: Value(1) };
    check(
        &with(stmt(&[], store(Mem::Shared(7)))),
        "`store ?7[%0], %1`: `Shared(7)` does not exist",
    );
    check(
        &with(stmt(&[], store(Mem::Entry(9, index)))),
        "`store ?9[%0][%0], %1`: `Entry(9, Value(0))` does not exist",
    );

    let mut deep = kernel(1, "");
    for _ in 0..70 {
        let then = std::mem::take(&mut deep.body);
        deep.body.stmts =
            vec![stmt(&[], Inst::If { cond: Value(3), then, otherwise: Default::default() })];
    }
    let findings = verify(&deep).expect_err("it is too deep");
    assert!(findings.iter().any(|f| f.problem.to_string() == "a block in more than 64 others"));
}

#[test]
fn a_table_that_is_written_is_no_table() {
    let mut wrong = kernel(1, "");
    wrong.params[4].access = Access::ReadWrite;
    check(&wrong, "`param list: bf16 readwrite table`: a table is readwrite, expected read");
}
