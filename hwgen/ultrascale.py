"""Yosys' synthesis for UltraScale+, for counts: sums of three in one LUT a bit, shift registers in flip-flops.

A LUT6 with two outputs reduces three bits to a sum and a carry, and adds the carry of the bit below, in front of the
carry chain: three operands take one LUT a bit, as two do. Yosys' own mapping takes nearly two.

Two flip-flops come with every LUT, and pipelines of this kind fill LUTs first: short delays are left to them.
"""

from __future__ import annotations

from pathlib import Path

from hwgen.ecp5 import UNVERIFIED

ARITHMETIC_FILE = "ultrascale_arithmetic.v"
# Per bit: x = a ^ b ^ c and m = majority(a, b, c); the chain adds x and the m of the bit below. Two single bits more
# enter as the first carry and as the m below the lowest bit: the "+ 1" of subtracted operands (at most two of the
# three), or of four operands those of one bit.
ARITHMETIC = """\
(* techmap_celltype = "$macc_v2" *)
module hwgen_sum_of_three (A, B, C, Y);
    parameter NPRODUCTS = 0;
    parameter NADDENDS = 0;
    parameter PRODUCT_NEGATED = 0;
    parameter ADDEND_NEGATED = 4'd0;
    parameter A_SIGNED = 0;
    parameter B_SIGNED = 0;
    parameter C_SIGNED = 4'd0;
    parameter A_WIDTHS = 0;
    parameter B_WIDTHS = 0;
    parameter C_WIDTHS = 64'd0;
    parameter Y_WIDTH = 1;
    parameter _TECHMAP_CONSTMSK_C_ = 0;
    parameter _TECHMAP_CONSTVAL_C_ = 0;

    localparam FOUR = NADDENDS == 4;
    localparam [63:0] WIDTHS = C_WIDTHS;
    localparam [3:0] SIGNED = C_SIGNED;
    localparam [3:0] NEGATIVE = ADDEND_NEGATED;
    localparam NEGATED = 0 + NEGATIVE[0] + NEGATIVE[1] + NEGATIVE[2];
    // Where each operand begins.
    localparam W0 = WIDTHS[15:0], W1 = WIDTHS[31:16], W2 = WIDTHS[47:32], W3 = WIDTHS[63:48];
    localparam [63:0] STARTS = {16'd0 + W0 + W1 + W2, 16'd0 + W0 + W1, 16'd0 + W0, 16'd0};
    // Of four: which are words, and the places of all. A bit may come with a zero in front, as a positive number.
    localparam [1023:0] ZEROS = _TECHMAP_CONSTMSK_C_ & ~_TECHMAP_CONSTVAL_C_;
    localparam [3:0] WORD = {
        W3 > 2 || (SIGNED[3] ? W3 == 1 || !ZEROS[STARTS[63:48] + 1] : W3 == 2),
        W2 > 2 || (SIGNED[2] ? W2 == 1 || !ZEROS[STARTS[47:32] + 1] : W2 == 2),
        W1 > 2 || (SIGNED[1] ? W1 == 1 || !ZEROS[STARTS[31:16] + 1] : W1 == 2),
        W0 > 2 || (SIGNED[0] ? W0 == 1 || !ZEROS[STARTS[15:0] + 1] : W0 == 2)
    };
    localparam BITS = 4 - WORD[0] - WORD[1] - WORD[2] - WORD[3];
    localparam I0 = !FOUR ? 0 : WORD[0] ? 0 : WORD[1] ? 1 : 2;
    localparam I1 = !FOUR ? 1 : WORD[3] ? 3 : WORD[2] ? 2 : 1;
    localparam B0 = !WORD[0] ? 0 : !WORD[1] ? 1 : 2;
    localparam B1 = !WORD[3] ? 3 : !WORD[2] ? 2 : 1;
    localparam S0 = STARTS[16*I0 +: 16], S1 = STARTS[16*I1 +: 16], S2 = STARTS[32 +: 16];
    localparam L0 = WIDTHS[16*I0 +: 16], L1 = WIDTHS[16*I1 +: 16], L2 = WIDTHS[32 +: 16];
    localparam CELLS = (Y_WIDTH + 3) / 4;

    (* force_downto *) input [0:0] A, B;
    (* force_downto *) input [W0+W1+W2+W3-1:0] C;
    (* force_downto *) output [Y_WIDTH-1:0] Y;

    wire _TECHMAP_FAIL_ = NPRODUCTS != 0 || Y_WIDTH < 3 || !(
        NADDENDS == 3 && NEGATED <= 2 || FOUR && BITS == 2 && NEGATIVE == 0
    );

    (* force_downto *) wire [Y_WIDTH-1:0] a, b, c;
    \\$pos #(.A_SIGNED(SIGNED[I0]), .A_WIDTH(L0), .Y_WIDTH(Y_WIDTH)) a_wide (.A(C[S0 +: L0]), .Y(a));
    \\$pos #(.A_SIGNED(SIGNED[I1]), .A_WIDTH(L1), .Y_WIDTH(Y_WIDTH)) b_wide (.A(C[S1 +: L1]), .Y(b));
    generate if (FOUR) assign c = 0;
    else \\$pos #(.A_SIGNED(SIGNED[2]), .A_WIDTH(L2), .Y_WIDTH(Y_WIDTH)) c_wide (.A(C[S2 +: L2]), .Y(c));
    endgenerate

    (* force_downto *) wire [4*CELLS:0] m;
    (* force_downto *) wire [4*CELLS-1:0] s, y;
    (* force_downto *) wire [4*CELLS:0] carry;
    assign carry[0] = FOUR ? C[STARTS[16*B0 +: 16]] : NEGATED > 0;
    assign m[0] = FOUR ? C[STARTS[16*B1 +: 16]] : NEGATED > 1;
    assign Y = y;

    // Tables of (a, b, c, m below), the first operand in the lowest bit of the index; an inverted operand exchanges
    // the entries where it is 0 with those where it is 1.
    function [31:0] table_of;
        input carries;
        integer index;
        reg [2:0] bits;
        begin
            for (index = 0; index < 32; index = index + 1) begin
                bits = index[2:0] ^ NEGATIVE[2:0];
                table_of[index] = carries ? (bits[0] & bits[1]) | (bits[2] & (bits[0] | bits[1]))
                                          : bits[0] ^ bits[1] ^ bits[2] ^ index[3];
            end
        end
    endfunction

    genvar i;
    generate for (i = 0; i < 4 * CELLS; i = i + 1) begin:bits
        if (i < Y_WIDTH)
            LUT6_2 #(.INIT({table_of(1'b0), table_of(1'b1)})) sum (
                .I0(a[i]), .I1(b[i]), .I2(c[i]), .I3(m[i]), .I4(1'b0), .I5(1'b1), .O6(s[i]), .O5(m[i+1])
            );
        else begin
            assign s[i] = 1'b0;
            assign m[i+1] = 1'b0;
        end
    end endgenerate
    generate for (i = 0; i < CELLS; i = i + 1) begin:chain
        CARRY4 cell (
            .CYINIT(i == 0 ? carry[0] : 1'b0),
            .CI(i == 0 ? 1'b0 : carry[4*i]),
            .DI(m[4*i +: 4]),
            .S(s[4*i +: 4]),
            .O(y[4*i +: 4]),
            .CO(carry[4*i+1 +: 4])
        );
    end endgenerate
endmodule
"""


def synthesis(top: str, folder: Path, options: str = "") -> list[str]:
    """The commands of Yosys, run in `folder`, into which this writes the file that they need.

    Args:
        top: name of the top module.
        folder: where Yosys runs.
        options: more arguments of `synth_xilinx`.
    """
    (folder / ARITHMETIC_FILE).write_text(ARITHMETIC)
    command = f"synth_xilinx -family xcup -flatten -uram -nosrl -top {top} {options}".rstrip()
    return [
        UNVERIFIED,
        f"{command} -run begin:fine",
        f'techmap -map "{folder / ARITHMETIC_FILE}"',
        f"{command} -run fine:",
    ]
