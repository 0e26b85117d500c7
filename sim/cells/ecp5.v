// Behaviour of the ECP5 blocks that Yosys' own library leaves as black boxes, as far as Yosys' mapping uses them.
//
// Pins and the order of bits are those of its lattice/brams_map_16kd.v and dsp_map_18x18.v. What is not modelled
// (asynchronous resets, chip selects, write-through) is refused when the netlist is compiled: its parameter, or a module
// that is looked for then, does not exist.

// 1,024 rows of two 9-bit bytes. Ports of 1, 2 and 4 bits do not see the ninth; where both ports meet at one address, a
// read gives what was there before the clock edge.
module DP16KD (
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
    DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
    DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2,
    DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2,
    DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18;
    parameter DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG";
    parameter CSDECODE_A = "0b000";
    parameter WRITEMODE_A = "NORMAL";
    parameter CLKAMUX = "CLKA";
    parameter REGMODE_B = "NOREG";
    parameter CSDECODE_B = "0b000";
    parameter WRITEMODE_B = "NORMAL";
    parameter CLKBMUX = "CLKB";
    parameter RESETMODE = "SYNC";
    parameter ASYNC_RESET_RELEASE = "SYNC";
    parameter GSR = "ENABLED";
    parameter [319:0]
        INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0, INITVAL_05 = 0,
        INITVAL_06 = 0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0,
        INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0, INITVAL_10 = 0, INITVAL_11 = 0,
        INITVAL_12 = 0, INITVAL_13 = 0, INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0,
        INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0,
        INITVAL_1E = 0, INITVAL_1F = 0, INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0,
        INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0, INITVAL_28 = 0, INITVAL_29 = 0,
        INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0,
        INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0,
        INITVAL_36 = 0, INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0,
        INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0;

    // Sixteen rows of 20 bits in each parameter, the upper two bits unused.
    localparam [64*320-1:0] INITIAL = {
        INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38, INITVAL_37,
        INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E,
        INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28, INITVAL_27, INITVAL_26, INITVAL_25,
        INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C,
        INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13,
        INITVAL_12, INITVAL_11, INITVAL_10, INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A,
        INITVAL_09, INITVAL_08, INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01,
        INITVAL_00
    };
    reg [17:0] rows [0:1023];
    integer row;
    initial for (row = 0; row < 1024; row = row + 1) rows[row] = INITIAL[20*row +: 18];

    // No such modules exist: Verilator skips $error with --noassert.
    generate
        if (DATA_WIDTH_B == 36 && REGMODE_A != REGMODE_B) DP16KD_half_a_register_is_not_modelled refused ();
        if (CSDECODE_A != "0b000" || CSDECODE_B != "0b000") DP16KD_chip_selects_are_not_modelled refused ();
        if (WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH")
            DP16KD_write_through_is_not_modelled refused ();
    endgenerate

    // Yosys names either mode where nothing is reset.
    always @(posedge clock_b)
        if (RESETMODE == "ASYNC" && (RSTA || RSTB)) $fatal(1, "DP16KD: asynchronous resets are not modelled");

    // Moves what a port of `width` bits addresses to the bottom of its row.
    function [17:0] narrowed(input integer width, input [13:0] address, input [17:0] value);
        case (width)
            1: narrowed = value >> (9 * address[3] + address[2:0]);
            2: narrowed = value >> (9 * address[3] + 2 * address[2:1]);
            4: narrowed = value >> (9 * address[3] + 4 * address[2]);
            9: narrowed = value >> (9 * address[3]);
            default: narrowed = value;
        endcase
        case (width)
            1: narrowed = narrowed & 18'h1;
            2: narrowed = narrowed & 18'h3;
            4: narrowed = narrowed & 18'hf;
            9: narrowed = narrowed & 18'h1ff;
            default: ;
        endcase
    endfunction

    // The row with `value` written; wide ports have an enable for each byte in the lowest address bits.
    function [17:0] written(input integer width, input [13:0] address, input [17:0] value, input [17:0] old);
        reg [17:0] mask;
        case (width)
            1: mask = 18'h1 << (9 * address[3] + address[2:0]);
            2: mask = 18'h3 << (9 * address[3] + 2 * address[2:1]);
            4: mask = 18'hf << (9 * address[3] + 4 * address[2]);
            9: mask = 18'h1ff << (9 * address[3]);
            default: mask = {{9{address[1]}}, {9{address[0]}}};
        endcase
        case (width)
            1: written = {18{value[0]}};
            2: written = {2{{1'b0, {4{value[1:0]}}}}};
            4: written = {2{{1'b0, {2{value[3:0]}}}}};
            9: written = {2{value[8:0]}};
            default: written = value;
        endcase
        written = (old & ~mask) | (written & mask);
    endfunction

    wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [17:0] data_a = {
        DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
        DIA1, DIA0
    };
    reg [17:0] out_a = 0;
    wire clock_a = CLKAMUX == "INV" ? ~CLKA : CLKA;
    wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
    wire [17:0] data_b = {
        DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2,
        DIB1, DIB0
    };
    reg [17:0] out_b = 0;
    wire clock_b = CLKBMUX == "INV" ? ~CLKB : CLKB;

    generate if (DATA_WIDTH_A != 36) begin : port_a
        wire [17:0] old = rows[address_a[13:4]];
        always @(posedge clock_a) begin
            if (RSTA) out_a <= 0;
            else if (CEA && (!WEA || WRITEMODE_A == "READBEFOREWRITE"))
                out_a <= narrowed(DATA_WIDTH_A, address_a, old);
            if (CEA && WEA && !RSTA)
                rows[address_a[13:4]] <= written(DATA_WIDTH_A, address_a, data_a, old);
        end
    end endgenerate

    generate if (DATA_WIDTH_B != 36) begin : port_b
        wire [17:0] old = rows[address_b[13:4]];
        always @(posedge clock_b) begin
            if (RSTB) out_b <= 0;
            else if (CEB && (!WEB || WRITEMODE_B == "READBEFOREWRITE"))
                out_b <= narrowed(DATA_WIDTH_B, address_b, old);
            if (CEB && WEB && !RSTB)
                rows[address_b[13:4]] <= written(DATA_WIDTH_B, address_b, data_b, old);
        end
    end endgenerate

    // Port A writes pairs of rows, port B reads them: the even row is on A's pins, the odd one on B's.
    wire [9:0] even_a = {address_a[13:5], 1'b0}, odd_a = {address_a[13:5], 1'b1};
    wire [9:0] even_b = {address_b[13:5], 1'b0}, odd_b = {address_b[13:5], 1'b1};
    generate if (DATA_WIDTH_A == 36) begin : pair_a
        always @(posedge clock_a) if (CEA && WEA) begin
            rows[even_a] <= written(18, {12'b0, address_a[1:0]}, data_a, rows[even_a]);
            rows[odd_a] <= written(18, {12'b0, address_a[3:2]}, data_b, rows[odd_a]);
        end
    end
    if (DATA_WIDTH_B == 36) begin : pair_b
        always @(posedge clock_b)
            if (RSTB) {out_b, out_a} <= 0;
            else if (CEB) {out_b, out_a} <= {rows[odd_b], rows[even_b]};
    end endgenerate

    // Port B's registers are those of port A's pins as well where it reads 36 bits.
    wire clock_held_a = DATA_WIDTH_B == 36 ? clock_b : clock_a;
    reg [17:0] held_a = 0, held_b = 0;
    always @(posedge clock_held_a) if (OCEA) held_a <= out_a;
    always @(posedge clock_b) if (OCEB) held_b <= out_b;

    assign {
        DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
        DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0
    } = REGMODE_A == "OUTREG" ? held_a : out_a;
    assign {
        DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
        DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
    } = REGMODE_B == "OUTREG" ? held_b : out_b;
endmodule

// 18 x 18 bits, each operand signed or not, without registers.
module MULT18X18D (
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    input CLK0, CE0, CE1, CE2, RST0, RST1, RST2,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15,
    P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    parameter REG_INPUTA_CLK = "NONE";
    parameter REG_INPUTA_CE = "CE0";
    parameter REG_INPUTA_RST = "RST0";
    parameter REG_INPUTB_CLK = "NONE";
    parameter REG_INPUTB_CE = "CE1";
    parameter REG_INPUTB_RST = "RST1";
    parameter REG_OUTPUT_CLK = "NONE";
    parameter REG_OUTPUT_CE = "CE2";
    parameter REG_OUTPUT_RST = "RST2";

    generate
        if (REG_INPUTA_CE != "CE0" || REG_INPUTB_CE != "CE1" || REG_OUTPUT_CE != "CE2")
            MULT18X18D_such_enables_are_not_modelled refused ();
    endgenerate

    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg [17:0] a_held = 0, b_held = 0;
    reg [35:0] held = 0;
    wire [17:0] a_now = REG_INPUTA_CLK == "NONE" ? a : a_held;
    wire [17:0] b_now = REG_INPUTB_CLK == "NONE" ? b : b_held;
    wire signed [18:0] a_wide = {SIGNEDA & a_now[17], a_now};
    wire signed [18:0] b_wide = {SIGNEDB & b_now[17], b_now};
    wire signed [37:0] product = a_wide * b_wide;
    wire [35:0] now = REG_OUTPUT_CLK == "NONE" ? product[35:0] : held;
    always @(posedge CLK0) begin
        if (RST0) a_held <= 0; else if (CE0) a_held <= a;
        if (RST1) b_held <= 0; else if (CE1) b_held <= b;
        if (RST2) held <= 0; else if (CE2) held <= product[35:0];
    end
    assign {
        P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15,
        P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
    } = now;
endmodule
